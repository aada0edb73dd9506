import {
  type GetClientConfigResult,
  getClientConfig,
  getClientToken,
} from "@pulumi/azure-native/authorization/index.js";
import { z } from "zod";
import type { Principal } from "./principal.ts";

/** Whoever runs `pulumi up`, and where. */
export interface Deployer extends Principal {
  readonly principalId: string;
  readonly principalType: "User" | "ServicePrincipal";
  readonly subscriptionId: string;
  readonly tenantId: string;
}

/** The Azure CLI's own application, in whose name it acts for people. */
const AZURE_CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

/** Asks the provider who it is logged in as. Ids of people and applications, no credentials. */
export async function findDeployer(): Promise<Deployer> {
  const [client, { token }] = await Promise.all([getClientConfig(), getClientToken()]);
  return {
    name: "deployer",
    principalId: client.objectId.toLowerCase(),
    principalType: principalTypeOf(token, client),
    subscriptionId: client.subscriptionId,
    tenantId: client.tenantId,
  };
}

const Claims = z.object({ idtyp: z.string().optional(), scp: z.string().optional() });

/**
 * First-deployment failure 2: an assignment must name its principal's type. Left out, the SDK says "User" for it
 * (roleAssignment.js), and Azure refuses that for a workflow's service principal (UnmatchedPrincipalType).
 *
 * An Azure access token tells them apart: `idtyp` where there is one, else `scp`, which only tokens of people have
 * (Entra: "Access token claims reference"). Without a readable token the client decides: people come by `az`.
 */
export function principalTypeOf(
  token: string,
  { clientId }: Pick<GetClientConfigResult, "clientId">,
): "User" | "ServicePrincipal" {
  const claims = readClaims(token);
  const isUser = claims
    ? claims.idtyp === undefined
      ? claims.scp !== undefined
      : claims.idtyp === "user"
    : clientId === AZURE_CLI;
  return isUser ? "User" : "ServicePrincipal";
}

/** The payload of a JWT (RFC 7519), unverified: Azure checks the token, this only reads one's own. */
function readClaims(token: string): z.infer<typeof Claims> | undefined {
  try {
    return Claims.parse(JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8")));
  } catch {
    return undefined;
  }
}
