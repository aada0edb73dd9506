/**
 * The account that every storage emulator has, with the key that everybody knows; it opens nothing anywhere else.
 * Source: "Use the Azurite emulator for local Azure Storage development".
 */
export const EMULATOR_ACCOUNT = {
  name: "devstoreaccount1",
  key: "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
} as const;
