import { setTimeout as delay } from "node:timers/promises";
import { RoleAssignment } from "@pulumi/azure-native/authorization/index.js";
import { all, type CustomResourceOptions, type Input, log, type Output, type Resource, runtime } from "@pulumi/pulumi";
import { v5 as uuidV5 } from "uuid";
import type { Principal } from "./principal.ts";
import type { Site } from "./site.ts";

/** Built-in roles. Source: Microsoft, "Azure built-in roles", read 2026. */
export const ROLES = {
  "acr-pull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
  "acr-push": "8311e382-0749-4cb8-b61a-304f252e45ec",
  "aks-cluster-admin": "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b", // Azure Kubernetes Service RBAC Cluster Admin
  "aks-cluster-user": "4abbcc35-e782-43d8-92c5-2d3f1bd2253f",
  "aks-rbac-reader": "7f6c6a51-bcf8-42ba-9220-52d62157d7db", // Azure Kubernetes Service RBAC Reader
  contributor: "b24988ac-6180-42a0-ab88-20f7382dd24c",
  "key-vault-secrets-officer": "b86a8fe4-44ce-4948-aee5-eccb2c155cd7",
  "key-vault-secrets-user": "4633458b-17de-408a-b874-0445c86b69e6",
  "managed-identity-operator": "f1a07417-d97a-45cb-824c-7a7467783830",
  "monitoring-metrics-publisher": "3913510d-42f4-4e42-8a64-420c390055eb",
  "network-contributor": "4d97b98b-1d4f-4787-a291-c67834d212e7",
  "rbac-administrator": "f58310d9-a9f6-439a-9e8d-f62e7b41a168", // Role Based Access Control Administrator
  reader: "acdd72a7-3385-48ef-bd42-f606fba81ae7",
  "service-bus-data-receiver": "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0",
  "service-bus-data-sender": "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39",
  "storage-blob-data-contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
  "storage-table-data-contributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",
  "user-access-administrator": "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
} as const;

export type RoleName = keyof typeof ROLES;

export interface RoleGrant {
  readonly site: Site;
  readonly principal: Principal;
  /** A built-in role, or a role of one's own by its id. */
  readonly role: RoleName | { readonly name: string; readonly id: string };
  /** The one resource that the role covers: the word for it in resource names, and its resource id. */
  readonly on: { readonly name: string; readonly id: Input<string> };
  /** What the role is bound to, in the language of Azure's role assignment conditions. */
  readonly condition?: string;
}

/**
 * Gives a principal a role on one resource. Name in Azure and name in the program both follow from (scope, principal,
 * role), so that a rerun after an interruption finds the assignment it made (first-deployment failure 2,
 * RoleAssignmentExists).
 */
export function assignRole(
  { site, principal, role, on, condition }: RoleGrant,
  opts: CustomResourceOptions,
): RoleAssignment {
  const { name, id } = typeof role === "string" ? { name: role, id: ROLES[role] } : role;
  return new RoleAssignment(
    `${principal.name}-${name}-${on.name}`,
    {
      roleAssignmentName: all([on.id, principal.principalId]).apply(([scope, principalId]) =>
        stableGuid(scope, principalId, id),
      ),
      scope: on.id,
      principalId: principal.principalId,
      // With it Azure does not look the principal up, for which a new one is too young: PrincipalNotFound (failure 2).
      principalType: principal.principalType,
      roleDefinitionId: roleDefinitionId(site.subscriptionId, id),
      ...(condition !== undefined && { condition, conditionVersion: "2.0" }),
    },
    opts,
  );
}

/** Full id, with the subscription, as Azure gives it back; any other form reads as a change that replaces. */
export function roleDefinitionId(subscriptionId: string, roleId: string): string {
  return `/subscriptions/${subscriptionId}/providers/Microsoft.Authorization/roleDefinitions/${roleId}`;
}

// Any fixed UUID serves (RFC 9562, section 5.5).
const GUID_NAMESPACE = "b7a6c1de-5f0b-4c52-9a39-0c7d1b1a8f64";

/** A GUID that follows from facts. Ids compare without case in Azure, so here too. */
export function stableGuid(...facts: readonly string[]): string {
  return uuidV5(facts.join("|").toLowerCase(), GUID_NAMESPACE);
}

/**
 * A role assignment or definition, once Azure can be expected to honour it. First-deployment failure 3: a new one takes
 * minutes to reach the services that check it. The wait counts from its creation: an unchanged stack waits for nothing,
 * and when an `up` failed because even this was too short, running it again heals it. Previews never wait.
 *
 * @param minutes upper bound of the wait.
 */
export function settled<T extends Resource & { readonly createdOn: Output<string> }>(
  role: T,
  minutes: number,
): Output<T> {
  return role.createdOn.apply(async (createdOn): Promise<T> => {
    const remaining = runtime.isDryRun() ? 0 : remainingWait(createdOn, minutes, Date.now());
    if (remaining > 0) {
      await log.info(`Waiting up to ${minutes} min for the role to take effect`, role, undefined, true);
      await delay(remaining);
    }
    return role;
  }) as Output<T>; // apply cannot see that a resource is never unwrapped
}

/** Milliseconds until `createdOn` is `minutes` old: none when it cannot be read, at most all when clocks differ. */
export function remainingWait(createdOn: string, minutes: number, now: number): number {
  const age = now - Date.parse(createdOn);
  if (Number.isNaN(age)) return 0;
  return Math.min(Math.max(minutes * 60_000 - age, 0), minutes * 60_000);
}
