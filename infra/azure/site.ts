import { ResourceGroup } from "@pulumi/azure-native/resources/index.js";
import { ComponentResource, type ComponentResourceOptions, type Output, RunError, runtime } from "@pulumi/pulumi";
import { RandomString } from "@pulumi/random";
import { localName, type NameParts, resourceTags, SUFFIX_LENGTH } from "../naming.ts";
import type { Settings } from "../settings.ts";
import { type Deployer, findDeployer } from "./deployer.ts";
import type { Principal } from "./principal.ts";
import { registerResourceProviders, requiredProviders } from "./resource-providers.ts";

/** Where a stack stands and who puts it there: subscription, resource group, names, tags, the deployer. Free. */
export class Site extends ComponentResource {
  readonly resourceGroupName: Output<string>;
  readonly resourceGroupId: Output<string>;
  readonly location: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly tenantId: string;
  readonly subscriptionId: string;
  /** Whoever runs `pulumi up`. */
  readonly deployer: Deployer;
  /** Who administers cluster and vault and pushes images: `mcp:admins`, or whoever runs `pulumi up`. */
  readonly admins: readonly Principal[];
  /** Behind names that all of Azure shares; kept in the stack's state. */
  readonly suffix: Output<string>;
  readonly parts: NameParts;
  /** Whether stateful resources are guarded against deletion. */
  readonly protect: boolean;

  /** Asks who deploys where, so that the components know these ids while planning; registers resource providers. */
  static async create(name: string, settings: Settings, opts?: ComponentResourceOptions): Promise<Site> {
    const deployer = await findDeployer();
    if (!runtime.isDryRun()) refuseOutsider(settings, deployer);
    await registerResourceProviders(deployer.subscriptionId, requiredProviders(settings));
    return new Site(name, settings, deployer, opts);
  }

  private constructor(
    name: string,
    settings: Settings,
    deployer: Deployer,
    opts: ComponentResourceOptions | undefined,
  ) {
    super("mcp:azure:Site", name, {}, opts);
    this.parts = { name: settings.name, stack: settings.stack };
    this.location = settings.location;
    this.tags = resourceTags(this.parts, settings.tags);
    this.protect = settings.protect;
    this.tenantId = deployer.tenantId;
    this.subscriptionId = deployer.subscriptionId;
    this.deployer = deployer;
    this.admins = admins(settings, deployer);

    const group = new ResourceGroup(
      `${name}-group`,
      { resourceGroupName: localName("resourceGroup", this.parts), location: this.location, tags: this.tags },
      { parent: this },
    );
    this.resourceGroupName = group.name;
    this.resourceGroupId = group.id;
    // First-deployment failure 10: deleted vaults and registries hold on to their names. A random suffix, kept in the
    // state, gives a destroyed and recreated stack new ones.
    this.suffix = new RandomString(
      `${name}-suffix`,
      { length: SUFFIX_LENGTH, lower: true, numeric: true, upper: false, special: false },
      { parent: this },
    ).result;
    this.registerOutputs({ resourceGroupName: this.resourceGroupName, suffix: this.suffix });
  }
}

/**
 * Who deploys puts charts into the cluster and pushes images, so must be an admin. Not added unasked: the roles of two
 * people who take turns would be replaced each time, and a reviewer's preview would show it.
 */
export function refuseOutsider({ admins }: Pick<Settings, "admins">, deployer: Principal): void {
  const listed = admins.some(
    ({ type, objectId }) => type === "Group" || objectId.toLowerCase() === deployer.principalId,
  );
  if (admins.length === 0 || listed) return;
  throw new RunError(
    `mcp:admins: does not list you, and only admins can put anything into the cluster; add "${deployer.principalType}:${deployer.principalId}", or a group that you are in`,
  );
}

function admins(settings: Settings, deployer: Principal): readonly Principal[] {
  if (settings.admins.length === 0) return [deployer];
  // One entry an object id: two assignments of the same fact would be RoleAssignmentExists (failure 2).
  const distinct = new Map(settings.admins.map((admin) => [admin.objectId.toLowerCase(), admin]));
  return [...distinct].map(([objectId, { type }]) => ({
    name: `${type.toLowerCase()}-${objectId.slice(0, 8)}`,
    principalId: objectId,
    principalType: type,
  }));
}
