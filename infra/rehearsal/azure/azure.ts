import { azureError, type Fault } from "../cloud-error.ts";
import type { CloudRequest, Created } from "../cloud-request.ts";
import { at, hexOf, isProperties, type Properties, textAt, textMapAt } from "../values.ts";
import { armId, parseArmId, resourceGroupId, sameId } from "./arm-id.ts";
import { DEPLOYER } from "./deployer.ts";
import { deafExport, lockOver } from "./log-ingestion.ts";
import type { Azure, AzureRequest, AzureResource, AzureType } from "./resource-type.ts";
import { BUILT_IN_ROLES } from "./roles.ts";
import { deafPolicy } from "./storage.ts";
import { AZURE_TYPES } from "./types.ts";

/** What stands in Azure before the stack does. */
export interface AzureBefore {
  /** Ids of resources outside the stack, such as the network that the runner is in. */
  readonly resourceIds?: readonly string[];
  /** Object ids of people, groups and applications that the settings name, with their type. */
  readonly principals?: Readonly<Record<string, string>>;
}

/** An Azure Resource Manager in memory: refuses what Azure refuses, in its words, and answers what Azure answers. */
export class FakeAzure implements Azure {
  readonly #resources = new Map<string, AzureResource>();
  readonly #softDeletedVaults = new Set<string>();
  readonly #before: AzureBefore;
  #uses = new Set<string>();

  constructor(before: AzureBefore = {}) {
    this.#before = before;
  }

  create(request: CloudRequest): Created {
    const type = typeOf(request.type);
    const id = this.#idFor(type, request);
    return this.#write(type, this.#requestFor(type, request, id, false), request);
  }

  update(id: string, request: CloudRequest): Created {
    const type = typeOf(request.type);
    const known = this.#resources.get(id.toLowerCase());
    if (!known) throw notFound(id);
    const asked = this.#requestFor(type, request, id, true);
    for (const path of [...(type.replacedBy ?? []), ...(type.fixed ?? [])]) {
      const before = at(known.inputs, path);
      const after = at(request.inputs, path);
      if (before !== undefined && JSON.stringify(before) !== JSON.stringify(after)) {
        throw azureError("PropertyChangeNotAllowed", `Changing property '${path}' is not allowed.`, 409);
      }
    }
    return this.#write(type, asked, request);
  }

  read(id: string): Properties | undefined {
    return this.#resources.get(id.toLowerCase())?.outputs;
  }

  delete(typeToken: string, id: string): void {
    const type = typeOf(typeToken);
    const key = id.toLowerCase();
    if (!this.#resources.has(key)) return; // Azure answers 204, and so a second destroy goes through.
    const lock = lockOver(id, this);
    if (lock) {
      throw azureError(
        "ScopeLocked",
        `The scope '${id}' cannot perform delete operation because following scope(s) are locked: '${String(lock.inputs.scope)}'. Please remove the lock and try again.`,
        409,
      );
    }
    const below = (other: string) => other === key || other.startsWith(`${key}/`);
    const holders = [...this.#resources.values()].filter(
      (other) => !below(other.id.toLowerCase()) && other.uses.has(key),
    );
    const [holder] = holders;
    if (type.heldAs !== undefined && holder) {
      const [, , what = "", name = ""] = /\/([^/]+)\/([^/]+)$/.test(id) ? id.split("/").slice(-4) : [];
      throw azureError(
        `InUse${type.heldAs}CannotBeDeleted`,
        `${type.heldAs} ${name || what} is in use by ${holder.id} and cannot be deleted. In order to delete the ${type.heldAs.toLowerCase()}, delete all the resources within it.`,
      );
    }
    for (const other of [...this.#resources.keys()].filter(below)) {
      const gone = this.#resources.get(other);
      if (gone?.arm === "Microsoft.KeyVault/vaults") this.#softDeletedVaults.add(gone.name.toLowerCase());
      this.#resources.delete(other);
    }
  }

  invoke(token: string, args: Properties): Properties {
    const invoke = INVOKES[token];
    if (!invoke)
      throw azureError(
        "NotRehearsed",
        `the rehearsal does not know the function ${token}; teach infra/rehearsal/azure`,
      );
    return invoke(this, args);
  }

  /** What Azure accepts one by one and what cannot work as a whole. */
  verify(): Fault[] {
    const faults: Fault[] = [];
    for (const resource of this.#resources.values()) {
      const message =
        useless(resource, this) ??
        mixedSubnets(resource, this) ??
        deafExport(resource, this) ??
        deafPolicy(resource, this);
      if (message) faults.push({ name: resource.name, resource: resource.id, message });
    }
    return faults;
  }

  find(id: string): AzureResource | undefined {
    const found = this.#resources.get(id.toLowerCase());
    if (found) {
      this.#uses.add(id.toLowerCase());
      return found;
    }
    // Services below a storage account exist with it.
    const service = /^(.*)\/(table|file|blob|queue)Services\/default$/i.exec(id);
    return service?.[1] === undefined ? undefined : this.find(service[1]);
  }

  need(id: unknown, path: string, arm?: string): AzureResource | undefined {
    const parsed = typeof id === "string" ? parseArmId(id) : undefined;
    if (typeof id !== "string" || !parsed) {
      throw azureError(
        "LinkedInvalidPropertyId",
        `Property id '${String(id)}' at path '${path}' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.`,
      );
    }
    if (arm !== undefined && parsed.type.toLowerCase() !== arm.toLowerCase()) {
      throw azureError(
        "LinkedInvalidPropertyId",
        `Property id '${id}' at path '${path}' is invalid: it names a ${parsed.type} where a ${arm} belongs.`,
      );
    }
    if (this.#existedBefore(id) || parsed.subscription.toLowerCase() !== DEPLOYER.subscriptionId) return undefined;
    if (parsed.type === "Microsoft.Resources/subscriptions") return undefined;
    const found = this.find(id);
    if (!found) throw notFound(id);
    return found;
  }

  all(arm: string): AzureResource[] {
    return [...this.#resources.values()].filter((resource) => resource.arm === arm);
  }

  children(parentId: string, arm: string): AzureResource[] {
    const prefix = `${parentId.toLowerCase()}/`;
    return this.all(arm).filter((resource) => resource.id.toLowerCase().startsWith(prefix));
  }

  mustFollow(resource: AzureResource): void {
    this.#uses.add(resource.id.toLowerCase());
  }

  principalType(objectId: string): string | undefined {
    if (objectId === DEPLOYER.objectId) return "User";
    const given = this.#before.principals?.[objectId];
    if (given !== undefined) return given;
    const identity = this.all(IDENTITY).find((resource) => resource.outputs.principalId === objectId);
    if (identity) this.mustFollow(identity);
    return identity && "ServicePrincipal";
  }

  /** What was looked at since the last question; for whoever asks from outside, such as the cluster's API server. */
  takeUses(): string[] {
    const uses = [...this.#uses];
    this.#uses = new Set();
    return uses;
  }

  isDeployer(objectId: string): boolean {
    return objectId === DEPLOYER.objectId;
  }

  hasRole(principalId: string | undefined, roleGuid: string, scope: string): boolean {
    const assignment = this.all("Microsoft.Authorization/roleAssignments").find(
      ({ inputs }) =>
        (principalId === undefined || inputs.principalId === principalId) &&
        String(inputs.roleDefinitionId).toLowerCase().endsWith(roleGuid) &&
        `${scope.toLowerCase()}/`.startsWith(`${String(inputs.scope).toLowerCase()}/`),
    );
    if (assignment) this.mustFollow(assignment);
    return assignment !== undefined;
  }

  vaultIsSoftDeleted(name: string): boolean {
    return this.#softDeletedVaults.has(name.toLowerCase());
  }

  put(resource: Omit<AzureResource, "uses">): void {
    this.#resources.set(resource.id.toLowerCase(), { ...resource, uses: new Set() });
  }

  #write(type: AzureType, asked: AzureRequest, request: CloudRequest): Created {
    this.#uses = new Set();
    this.#checkPlace(type, asked);
    checkName(type, asked);
    if (!asked.updates) this.#checkNameIsFree(type, asked);
    for (const path of type.required ?? []) {
      const value = at(request.inputs, path);
      if (value === undefined || value === null || value === "") {
        throw azureError("InvalidParameter", `Required parameter ${path} is missing (null).`);
      }
    }
    checkTags(request.inputs);
    this.#checkTurn(type, asked);
    type.check?.(asked, this);
    const parameters = new Set(["resourceGroupName", ...type.names]);
    const outputs: Properties = {
      ...Object.fromEntries(Object.entries(request.inputs).filter(([key]) => !parameters.has(key))),
      name: asked.name,
      type: type.arm,
      ...(type.located === false ? {} : { location: asked.location, provisioningState: "Succeeded" }),
      ...type.outputs?.(asked, this),
    };
    const uses = new Set(this.takeUses());
    uses.delete(asked.id.toLowerCase());
    this.#resources.set(asked.id.toLowerCase(), {
      id: asked.id,
      arm: type.arm,
      name: asked.name,
      location: asked.location,
      inputs: request.inputs,
      outputs,
      uses,
    });
    if (!asked.updates) type.created?.(asked, this);
    return { id: asked.id, outputs, key: asked.id.toLowerCase(), uses: [...uses] };
  }

  #namesFor(type: AzureType, request: CloudRequest): string[] {
    return type.names.map((property, i) => {
      if (property.startsWith("=")) return property.slice(1);
      const given = request.inputs[property];
      if (typeof given === "string" && given !== "") return given;
      // The provider makes a name up where the program leaves it open.
      if (i === type.names.length - 1) return `${request.name}${hexOf(8, request.type, request.name)}`;
      throw azureError("InvalidParameter", `Required parameter ${property} is missing (null).`);
    });
  }

  #idFor(type: AzureType, request: CloudRequest): string {
    const names = this.#namesFor(type, request);
    if (type.arm === "Microsoft.Resources/resourceGroups") {
      return resourceGroupId(DEPLOYER.subscriptionId, names[0] ?? "");
    }
    if (type.scope === "anyResource") {
      const scope = request.inputs[type.scopeProperty ?? "scope"];
      if (typeof scope !== "string") {
        throw azureError("InvalidParameter", `Required parameter ${type.scopeProperty} is missing (null).`);
      }
      return armId(scope.replace(/^\/(?=subscriptions)/, "/").replace(/\/$/, ""), type.arm, names);
    }
    const group = request.inputs.resourceGroupName;
    if (typeof group !== "string" || group === "") {
      throw azureError("InvalidParameter", "Required parameter resourceGroupName is missing (null).");
    }
    return armId(resourceGroupId(DEPLOYER.subscriptionId, group), type.arm, names);
  }

  #requestFor(type: AzureType, request: CloudRequest, id: string, updates: boolean): AzureRequest {
    const names = this.#namesFor(type, request);
    const resourceGroup = typeof request.inputs.resourceGroupName === "string" ? request.inputs.resourceGroupName : "";
    const group = this.#resources.get(resourceGroupId(DEPLOYER.subscriptionId, resourceGroup).toLowerCase());
    return {
      id,
      name: names.at(-1) ?? "",
      inputs: request.inputs,
      location: (textAt(request.inputs, "location") ?? group?.location ?? "").replaceAll(" ", "").toLowerCase(),
      resourceGroup,
      names,
      updates,
    };
  }

  /** In whichever subscription: which one the deployer will be in, a rehearsal cannot know. */
  #existedBefore(id: string): boolean {
    const path = (full: string) => full.toLowerCase().replace(/^\/subscriptions\/[^/]+/, "");
    return (this.#before.resourceIds ?? []).some((known) => `${path(known)}/`.startsWith(`${path(id)}/`));
  }

  /** The group, the scope or the parent that the resource goes into. */
  #checkPlace(type: AzureType, asked: AzureRequest): void {
    if (type.scope === "anyResource") {
      const scope = asked.inputs[type.scopeProperty ?? "scope"];
      this.need(scope, type.scopeProperty ?? "scope");
      return;
    }
    if (type.arm === "Microsoft.Resources/resourceGroups") return;
    const groupId = resourceGroupId(DEPLOYER.subscriptionId, asked.resourceGroup);
    if (!this.find(groupId) && !this.#existedBefore(groupId)) {
      throw azureError("ResourceGroupNotFound", `Resource group '${asked.resourceGroup}' could not be found.`, 404);
    }
    if (asked.names.length > 1) {
      const parentType = type.arm.split("/").slice(0, -1).join("/");
      const parentId = armId(groupId, parentType, asked.names.slice(0, -1));
      if (!this.find(parentId) && !this.#existedBefore(parentId)) {
        throw azureError(
          "ParentResourceNotFound",
          `Failed to perform 'write' on resource(s) of type '${type.arm.split("/").slice(1).join("/")}', because the parent resource '${parentId}' could not be found.`,
          404,
        );
      }
    }
  }

  #checkNameIsFree(type: AzureType, asked: AzureRequest): void {
    if (this.#resources.has(asked.id.toLowerCase())) {
      throw azureError(
        "Conflict",
        `A resource with the ID "${asked.id}" already exists. To be managed via Pulumi this resource needs to be imported.`,
        409,
      );
    }
    if (type.unique !== "world" && type.unique !== "region") return;
    const taken = this.all(type.arm).find(
      (other) =>
        other.name.toLowerCase() === asked.name.toLowerCase() &&
        (type.unique === "world" || other.location === asked.location),
    );
    if (taken) {
      throw azureError(type.takenCode ?? "Conflict", `The name '${asked.name}' is already in use.`, 409);
    }
  }

  /** Azure writes the children of some parents one at a time; those that come later have to wait for the earlier. */
  #checkTurn(type: AzureType, asked: AzureRequest): void {
    if (type.serialisedBelow === undefined || asked.updates) return;
    const depth = type.serialisedBelow + 1;
    const below = (id: string) => parseArmId(id)?.names.slice(0, depth).join("/").toLowerCase();
    const siblings = this.all(type.arm).filter(
      (other) =>
        below(other.id) === below(asked.id) &&
        sameId(parseArmId(other.id)?.resourceGroup ?? "", parseArmId(asked.id)?.resourceGroup ?? ""),
    );
    const previous = siblings.at(-1);
    if (previous) this.mustFollow(previous);
  }
}

const IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities";

/** Properties whose change replaces a resource of that Pulumi type: for a provider's diff. */
export function replacingProperties(token: string): readonly string[] {
  const type = AZURE_TYPES[token];
  if (!type) return [];
  const place = type.scope === "anyResource" ? [type.scopeProperty ?? "scope"] : ["resourceGroupName"];
  const names = type.names.filter((property) => !property.startsWith("="));
  return [...place, ...names, ...(type.located === false ? [] : ["location"]), ...(type.replacedBy ?? [])];
}

function typeOf(token: string): AzureType {
  const type = AZURE_TYPES[token];
  if (!type) {
    throw azureError(
      "NotRehearsed",
      `the rehearsal does not know the resource type ${token}; teach infra/rehearsal/azure/types.ts`,
    );
  }
  return type;
}

export function notFound(id: string): Error {
  const parsed = parseArmId(id);
  if (parsed?.type === "Microsoft.Resources/resourceGroups") {
    return azureError("ResourceGroupNotFound", `Resource group '${parsed.resourceGroup}' could not be found.`, 404);
  }
  const [namespace = "", ...segments] = (parsed?.type ?? "").split("/");
  const path = segments.map((segment, i) => `${segment}/${parsed?.names[i] ?? ""}`).join("/");
  return azureError(
    "ResourceNotFound",
    `The Resource '${namespace}/${path}' under resource group '${parsed?.resourceGroup ?? "<null>"}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix`,
    404,
  );
}

function checkName(type: AzureType, asked: AzureRequest): void {
  const { pattern, sentence, code } = type.naming;
  if (!pattern.test(asked.name))
    throw azureError(code ?? "InvalidResourceName", sentence.replaceAll("{name}", asked.name));
}

// Microsoft, "Use tags to organize your Azure resources": 50 tags, names to 512 and values to 256 characters.
function checkTags(inputs: Properties): void {
  if (inputs.tags === undefined || !isProperties(inputs.tags)) return;
  const tags = textMapAt(inputs, "tags");
  if (Object.keys(tags).length > 50) {
    throw azureError(
      "InvalidTags",
      `The number of tags ${Object.keys(tags).length} exceeds the allowed maximum of 50.`,
    );
  }
  for (const [key, value] of Object.entries(tags)) {
    if (/[<>%&\\?/]/.test(key)) {
      throw azureError(
        "InvalidTagNameCharacters",
        `The tag names '${key}' have reserved characters '<,>,%,&,\\,?,/' or control characters.`,
      );
    }
    if (value.length > 256) {
      throw azureError(
        "InvalidTagValueLength",
        `Tag value too large. The maximum size of a tag value is 256 characters.`,
      );
    }
  }
}

/** A role that permits nothing below its scope is accepted and means nothing. */
function useless(resource: AzureResource, azure: Azure): string | undefined {
  if (resource.arm !== "Microsoft.Authorization/roleAssignments") return undefined;
  const guid = String(resource.inputs.roleDefinitionId).toLowerCase().split("/").at(-1) ?? "";
  const role = BUILT_IN_ROLES[guid];
  const scope = parseArmId(String(resource.inputs.scope))?.type ?? "";
  if (!role || role.on.length === 0 || scope.startsWith("Microsoft.Resources/")) return undefined;
  if (role.on.some((type) => `${scope}/`.toLowerCase().startsWith(`${type}/`.toLowerCase()))) return undefined;
  const principal = azure.all(IDENTITY).find(({ outputs }) => outputs.principalId === resource.inputs.principalId);
  return `the role "${role.name}" permits nothing on ${String(resource.inputs.scope)}, which is a ${scope}${principal ? `; ${principal.name} gains nothing by it` : ""}`;
}

/** A network's own list of subnets and Subnet resources beside it delete one another at every second update. */
function mixedSubnets(resource: AzureResource, azure: Azure): string | undefined {
  if (resource.arm !== "Microsoft.Network/virtualNetworks" || resource.inputs.subnets === undefined) return undefined;
  const beside = azure
    .children(resource.id, "Microsoft.Network/virtualNetworks/subnets")
    .find((subnet) => subnet.inputs.subnetName !== undefined);
  return (
    beside &&
    `the network lists its subnets, so its next update deletes the subnet ${beside.name}, which is a resource of its own`
  );
}

type Invoke = (azure: Azure, args: Properties) => Properties;

const INVOKES: Readonly<Record<string, Invoke>> = {
  "azure-native:authorization:getClientConfig": () => ({ ...DEPLOYER }),
  "azure-native:authorization:getClientToken": (_azure, args) => ({
    token: `rehearsal.${hexOf(32, "token", textAt(args, "endpoint") ?? "")}.unsigned`,
  }),
  "azure-native:containerservice:listManagedClusterUserCredentials": (azure, args) => {
    const group = resourceGroupId(DEPLOYER.subscriptionId, textAt(args, "resourceGroupName") ?? "");
    const id = armId(group, "Microsoft.ContainerService/managedClusters", [textAt(args, "resourceName") ?? ""]);
    const cluster = azure.find(id);
    if (!cluster) throw notFound(id);
    return { kubeconfigs: [{ name: "clusterUser", value: kubeconfig(cluster, textAt(args, "format")) }] };
  },
};

/** The kubeconfig that AKS hands to cluster users: device code login, which the program has to replace. */
function kubeconfig(cluster: AzureResource, format: string | undefined): string {
  const server = cluster.outputs.privateFQDN || cluster.outputs.fqdn;
  const user = `clusterUser_${parseArmId(cluster.id)?.resourceGroup}_${cluster.name}`;
  const exec = {
    apiVersion: "client.authentication.k8s.io/v1beta1",
    command: "kubelogin",
    // The server and client ids are AKS's own, the same in every tenant.
    args: [
      "get-token",
      "--environment",
      "AzurePublicCloud",
      "--server-id",
      "6dae42f8-4368-4678-94ff-3960e28e3630",
      "--client-id",
      "80faf920-1908-4b52-b5ef-a8e7bedfc67a",
      "--tenant-id",
      DEPLOYER.tenantId,
      "--login",
      "devicecode",
    ],
    provideClusterInfo: false,
  };
  const config = {
    apiVersion: "v1",
    kind: "Config",
    "current-context": cluster.name,
    preferences: {},
    clusters: [
      {
        name: cluster.name,
        cluster: {
          "certificate-authority-data": Buffer.from("the cluster's certificate").toString("base64"),
          server: `https://${String(server)}:443`,
        },
      },
    ],
    contexts: [{ name: cluster.name, context: { cluster: cluster.name, user } }],
    users: [{ name: user, user: format === "azure" ? { "auth-provider": { name: "azure" } } : { exec } }],
  };
  // JSON is YAML; real kubeconfigs are block style, which a YAML parser reads into the same.
  return Buffer.from(JSON.stringify(config, null, 2)).toString("base64");
}
