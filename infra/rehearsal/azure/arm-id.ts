/** A resource id of Azure Resource Manager, taken apart. */
export interface ArmId {
  readonly subscription: string;
  readonly resourceGroup?: string;
  /** `Microsoft.Network/virtualNetworks/subnets`; for a resource group `Microsoft.Resources/resourceGroups`. */
  readonly type: string;
  /** One name for each segment of the type behind the provider. */
  readonly names: readonly string[];
}

/** Reads `/subscriptions/<id>[/resourceGroups/<name>][/providers/<namespace>/<type>/<name>...]`; undefined for other text. */
export function parseArmId(id: string): ArmId | undefined {
  const match =
    /^\/subscriptions\/([^/]+)(?:\/resourceGroups\/([^/]+))?(?:\/(?:.*\/)?providers\/([^/]+)\/(.+))?$/i.exec(id);
  if (!match) return undefined;
  const [, subscription = "", resourceGroup, namespace, rest] = match;
  if (namespace === undefined || rest === undefined) {
    if (resourceGroup === undefined) return { subscription, type: "Microsoft.Resources/subscriptions", names: [] };
    return { subscription, resourceGroup, type: "Microsoft.Resources/resourceGroups", names: [resourceGroup] };
  }
  const segments = rest.split("/");
  if (segments.length % 2 !== 0) return undefined;
  return {
    subscription,
    resourceGroup,
    type: [namespace, ...segments.filter((_, i) => i % 2 === 0)].join("/"),
    names: segments.filter((_, i) => i % 2 === 1),
  };
}

/** The id of a resource: `names` holds one name for each segment of `type` behind the provider's namespace. */
export function armId(scope: string, type: string, names: readonly string[]): string {
  const [namespace = "", ...segments] = type.split("/");
  return [scope, "providers", namespace, ...segments.flatMap((segment, i) => [segment, names[i] ?? ""])].join("/");
}

export function resourceGroupId(subscription: string, name: string): string {
  return `/subscriptions/${subscription}/resourceGroups/${name}`;
}

/** Ids are compared without regard to case. */
export function sameId(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}
