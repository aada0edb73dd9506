import type { Register } from "../../../server/auth/key-register.ts";

/** Where a register of keys is kept. */
export interface RegisterStore {
  /** For people: a path, or a secret and its vault. */
  readonly place: string;
  /** When a change holds, for people: `within a minute`. */
  readonly holds: string;
  read(): Promise<Register>;
  /**
   * Replaces the register by what `edit` makes of it. What others change at the same time is lost on neither side.
   * `edit` is called once.
   */
  change(edit: (register: Register) => Register): Promise<Register>;
  /** When each key was last used, by its id. */
  lastUses(): Promise<LastUses>;
}

/** `times` are milliseconds since 1970. What cannot be found out is told as a sentence. */
export type LastUses = { readonly times: ReadonlyMap<string, number> } | { readonly unknown: string };
