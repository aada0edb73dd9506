import type { Properties } from "./values.ts";

/** A request as a provider sends it to its cloud. */
export interface CloudRequest {
  /** Pulumi's token: `azure-native:network:Subnet`, `kubernetes:apps/v1:Deployment`. */
  readonly type: string;
  /** The resource's name in the program, from which automatic names follow. */
  readonly name: string;
  /** Secrets unwrapped. */
  readonly inputs: Properties;
  readonly id?: string;
}

export interface Created {
  readonly id: string;
  readonly outputs: Properties;
  /** By what others' `uses` know it; absent where nothing can refer to it. */
  readonly key?: string;
  /** What had to exist already: resource ids (Azure, in lower case; Helm) and object keys (Kubernetes). */
  readonly uses: readonly string[];
}
