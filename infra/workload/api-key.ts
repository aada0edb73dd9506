import { createHash } from "node:crypto";
import { ComponentResource, type ComponentResourceOptions, interpolate, type Output, secret } from "@pulumi/pulumi";
import { RandomPassword } from "@pulumi/random/randomPassword.js";
import type { KeyVault } from "../azure/key-vault.ts";

const VAULT_SECRET = "mcp-api-key";

/**
 * The vault's secret with all other keys' hashes, roles and expiries, which `mcp-aks keys` keeps and the server rereads
 * while it runs. Not the stack's to make: an update would set it back.
 */
export const KEY_REGISTER = "mcp-api-keys";

/** Of 62 letters and digits: 256 bits. Nothing is gained by guessing, so a plain hash is enough to check by. */
const KEY_LENGTH = 43;

export interface ApiKeyArgs {
  /** Part of the key, so that its finder sees what it opens. */
  readonly stack: string;
  readonly vault: Pick<KeyVault, "addSecret">;
}

/**
 * The key of the endpoint's first user, `mcp_<stack>_<43 characters>`. People fetch it from the vault; the server gets
 * a hash, from which no key can be made. Free.
 */
export class ApiKey extends ComponentResource {
  /** `sha256:<64 hex digits>` of the whole key: an entry of the server's API_KEY_HASHES. */
  readonly hash: Output<string>;
  /** The key's name in the vault. */
  readonly vaultSecretName = VAULT_SECRET;

  constructor(name: string, { stack, vault }: ApiKeyArgs, options?: ComponentResourceOptions) {
    super("mcp:workload:ApiKey", name, {}, options);
    const key = this.#generate(stack);
    vault.addSecret(VAULT_SECRET, key);
    this.hash = secret(key.apply((text) => `sha256:${createHash("sha256").update(text).digest("hex")}`));
    this.registerOutputs({});
  }

  #generate(stack: string): Output<string> {
    // Not RandomBytes: its resource id is the bytes themselves, and ids lie open in state and logs. Letters and digits
    // are safe in a header, a URL and a shell.
    const random = new RandomPassword(VAULT_SECRET, { length: KEY_LENGTH, special: false }, { parent: this });
    return secret(interpolate`mcp_${stack}_${random.result}`);
  }
}
