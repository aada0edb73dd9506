import { APP_ROLES, SCOPES } from "../../server/auth/roles.ts";
import { CliError } from "./cli-error.ts";
import { throwAwayKey } from "./local-workload.ts";

/** Tokens as the stand-in for Entra signs them, and one that it did not. */
export interface Tokens {
  /** Of a user with every role and scope. */
  readonly admin: string;
  /** Of one who may look and nothing else. */
  readonly reader: string;
  /** The first one's claims under another's signature. */
  readonly forged: string;
}

/** Who calls a rehearsed server: by key, by token, or both, as the plan's AUTH_MODE has it. */
export interface LocalIdentity {
  /** Absent: the server takes no keys. */
  readonly key?: string;
  /** Absent: it takes no tokens. */
  readonly tokens?: Tokens;
  /** Where the stand-in for Entra answers; absent without tokens. */
  readonly authority?: string;
  close(): Promise<void>;
}

/** As long as anybody leaves a rehearsal running. Seconds. */
const LIFETIME = 24 * 60 * 60;

/**
 * Makes a key, and starts a stand-in for Entra with two of its users, for a server with that environment.
 *
 * @throws CliError when the environment lets nobody in.
 */
export async function localIdentity(
  environment: Readonly<Record<string, string>>,
  stack: string,
): Promise<LocalIdentity> {
  const modes = (environment.AUTH_MODE ?? "none").split(",");
  const key = modes.includes("api-key") ? { key: throwAwayKey(stack) } : {};
  if (!modes.includes("entra")) {
    if ("key" in key) return { ...key, close: async () => {} };
    throw new CliError(`The plan's AUTH_MODE is ${environment.AUTH_MODE}, and the rehearsal is of keys and logins.`);
  }
  const {
    ENTRA_TENANT_ID: tenantId = "",
    ENTRA_CLIENT_ID: clientId = "",
    OAUTH_CLIENT_ID: client = clientId,
  } = environment;
  // Signing takes a library that nothing else of the command line needs.
  const { EntraDouble } = await import("../rehearsal/entra-double.ts");
  const entra = await EntraDouble.start(tenantId);
  const of = { clientId, client, lifetimeSeconds: LIFETIME };
  const scopes = Object.values(SCOPES);
  const admin = { ...of, name: "admin", roles: Object.values(APP_ROLES), scopes };
  const reader = { ...of, name: "reader", roles: [APP_ROLES.reader], scopes };
  const tokens = {
    admin: await entra.token(admin),
    reader: await entra.token(reader),
    forged: await entra.forgedToken(admin),
  };
  return { ...key, tokens, authority: entra.authority, close: () => entra.close() };
}

/** What opens the server for everything, and what it is. */
export function credentialOf({ key, tokens }: Pick<LocalIdentity, "key" | "tokens">): {
  readonly kind: "key" | "token";
  readonly value: string;
} {
  if (key !== undefined) return { kind: "key", value: key };
  return { kind: "token", value: tokens?.admin ?? "" };
}
