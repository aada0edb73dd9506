import type { Properties } from "../values.ts";

/** What the fake knows of one of Azure's resource types. */
export interface AzureType {
  /** Type in Azure Resource Manager: `Microsoft.Network/virtualNetworks/subnets`. */
  readonly arm: string;
  /**
   * The inputs that hold the names of the resource's parents and, last, its own, as azure-native calls them; `=default`
   * stands for a name that is always "default".
   */
  readonly names: readonly string[];
  readonly naming: NameRule;
  /** Default: a resource group. `anyResource`: the input named by `scopeProperty` holds the scope's id. */
  readonly scope?: "subscription" | "resourceGroup" | "anyResource";
  readonly scopeProperty?: string;
  /** Within what the name is taken: its parent (the default), the region, or all of Azure. */
  readonly unique?: "parent" | "region" | "world";
  /** Error code when the name is taken. */
  readonly takenCode?: string;
  /** Whether it has a location; absent: it has one, taken from its resource group when the inputs give none. */
  readonly located?: boolean;
  /** Dotted paths of inputs without which the request is refused. */
  readonly required?: readonly string[];
  /** Changing one of these replaces the resource (provider: gen/replacement.go); names and location always do. */
  readonly replacedBy?: readonly string[];
  /** Planned as an update, refused by Azure: dotted paths. */
  readonly fixed?: readonly string[];
  /** One write at a time below this parent (the position of its name in `names`). */
  readonly serialisedBelow?: number;
  /** `InUse<this>CannotBeDeleted` while something refers to the resource. */
  readonly heldAs?: string;
  /** Throws a CloudError for what Azure refuses. */
  check?(request: AzureRequest, azure: Azure): void;
  /** Outputs beside the inputs, name, type and location. */
  outputs?(request: AzureRequest, azure: Azure): Properties;
  /** What else comes into being with it. */
  created?(request: AzureRequest, azure: Azure): void;
}

export interface AzureRequest {
  readonly id: string;
  readonly name: string;
  readonly inputs: Properties;
  readonly location: string;
  /** Empty outside a resource group. */
  readonly resourceGroup: string;
  /** Names of parents and, last, its own. */
  readonly names: readonly string[];
  readonly updates: boolean;
}

export interface AzureResource {
  readonly id: string;
  readonly arm: string;
  readonly name: string;
  readonly location: string;
  readonly inputs: Properties;
  readonly outputs: Properties;
  /** Ids that were looked at when it was created. */
  readonly uses: ReadonlySet<string>;
}

export interface NameRule {
  readonly pattern: RegExp;
  /** Azure's words for it. */
  readonly sentence: string;
  readonly code?: string;
}

/** The whole of what stands, as the rules of one type see it. */
export interface Azure {
  /** The resource of that id, and a note that whoever asks depends on it. */
  find(id: string): AzureResource | undefined;
  /**
   * Insists on a resource that an input refers to; `arm` is the type that belongs there.
   *
   * @throws CloudError unless it exists; ids outside the subscription are taken at their word, and give undefined.
   */
  need(id: unknown, path: string, arm?: string): AzureResource | undefined;
  all(arm: string): readonly AzureResource[];
  children(parentId: string, arm: string): readonly AzureResource[];
  /** Notes that whoever is being created must come after that resource. */
  mustFollow(resource: AzureResource): void;
  /** What kind of principal that object id is; undefined when the directory does not know it. */
  principalType(objectId: string): string | undefined;
  isDeployer(objectId: string): boolean;
  /** Whether the principal has the role on the scope or above it. `principalId` absent: whether anybody has. */
  hasRole(principalId: string | undefined, roleGuid: string, scope: string): boolean;
  vaultIsSoftDeleted(name: string): boolean;
  /** Puts down what comes into being without being asked for, such as the node resource group. */
  put(resource: Omit<AzureResource, "uses">): void;
}
