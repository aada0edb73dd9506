import type { Input } from "@pulumi/pulumi";

/** Someone in Entra ID who can be given a role. */
export interface Principal {
  /** What the program calls them, part of resource names: `mcp-server`. */
  readonly name: string;
  /** Entra object id. */
  readonly principalId: Input<string>;
  /** Always said: without it Azure looks the principal up, which fails for one created just now. */
  readonly principalType: "User" | "Group" | "ServicePrincipal";
}
