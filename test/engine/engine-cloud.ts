import { join } from "node:path";
import type { AzureBefore } from "../../infra/rehearsal/azure/azure.ts";
import { FakeCloud } from "../../infra/rehearsal/cloud.ts";
import type { CloudRequest, Created } from "../../infra/rehearsal/cloud-request.ts";
import { isProperties, type Properties } from "../../infra/rehearsal/values.ts";
import type { AzureState } from "./azure-double.ts";
import { type EmulatedCloud, HalfCreated } from "./emulated-provider.ts";
import { REPOSITORY } from "./pulumi-cli.ts";

/** Long enough ago for Azure to have told every service of a role assignment, so that nobody waits for it. */
const ASSIGNED = new Date(Date.now() - 24 * 60 * 60 * 1000).toISOString();

type Matches = (request: CloudRequest) => boolean;

interface Standing {
  readonly request: CloudRequest;
  readonly id: string;
  readonly outputs: Properties;
  readonly uses: readonly string[];
}

/** The rehearsal's fake cloud behind the emulated providers, with a memory and with failures on demand. */
export class EngineCloud implements EmulatedCloud, AzureState {
  readonly #fake: FakeCloud;
  readonly #made = new Map<string, Standing>();
  /** Values that somebody who reads the stack's state must not find, by the name of the resource that has them. */
  readonly secrets = new Map<string, string>();
  readonly #failures: { matches: Matches; message: string; leavesHalf: boolean }[] = [];
  readonly #watchers: { matches: Matches; seen: () => void }[] = [];
  readonly #tokens = new Set<string>();

  constructor(before: AzureBefore = {}) {
    this.#fake = new FakeCloud(before);
  }

  /** What stands, as "<type> <name in the program>". */
  standing(): string[] {
    return this.#standing().map(({ request }) => `${request.type} ${request.name}`);
  }

  /** What everything together cannot mean, in a sentence each. */
  faults(): string[] {
    return this.#fake.verify().map(({ name, message }) => `${name}: ${message}`);
  }

  /** Refuses the next creation that matches, and only that one. */
  refuseOnce(matches: Matches, message: string): void {
    this.#failures.push({ matches, message, leavesHalf: false });
  }

  /** Lets the next creation that matches run into its time limit, with the object left behind. */
  timeOutOnce(matches: Matches, message: string): void {
    this.#failures.push({ matches, message, leavesHalf: true });
  }

  /** Resolves when the next resource that matches has been created. */
  creationOf(matches: Matches): Promise<void> {
    return new Promise((seen) => this.#watchers.push({ matches, seen }));
  }

  /** Somebody else's hand on what matches: its outputs become what `change` makes of them. */
  meddle(matches: Matches, change: (outputs: Properties) => Properties): void {
    const found = this.#standing().filter(({ request }) => matches(request));
    if (found.length === 0) throw new Error("nothing stands that matches");
    for (const it of found) this.#made.set(keyOf(it.request.type, it.id), { ...it, outputs: change(it.outputs) });
  }

  create(request: CloudRequest): { id: string; outputs: Properties } {
    const index = this.#failures.findIndex(({ matches }) => matches(request));
    const [failure] = index < 0 ? [] : this.#failures.splice(index, 1);
    if (failure && !failure.leavesHalf) throw new Error(failure.message);
    const made = this.#keep(request, this.#fake.create(fromProviderFolder(request)));
    for (const { matches, seen } of this.#watchers) if (matches(request)) seen();
    const secret = secretOf(request, made.outputs);
    if (typeof secret === "string") this.secrets.set(request.name, secret);
    if (failure) throw new HalfCreated(failure.message, made);
    return made;
  }

  read(type: string, id: string, recorded: Properties): Properties | undefined {
    if (!isInAzure(type) && !isInCluster(type)) return recorded;
    return this.#standing().find((it) => keyOf(it.request.type, it.id) === keyOf(type, id))?.outputs;
  }

  update(id: string, request: CloudRequest): { outputs: Properties } {
    return this.#keep(request, this.#fake.update(id, fromProviderFolder(request)));
  }

  delete(type: string, id: string): void {
    const gone = this.#made.get(keyOf(type, id));
    const holder = gone && this.#standing().find((other) => holds(other, gone));
    if (holder) {
      throw new Error(
        `${type} ${gone.request.name} cannot be deleted: ${holder.request.type} ${holder.request.name} still needs it`,
      );
    }
    if (isInCluster(type) && !this.#hasCluster()) {
      throw new Error("failed to reach the cluster: dial tcp: lookup of the API server: no such host");
    }
    this.#fake.delete(type, id);
    this.#made.delete(keyOf(type, id));
  }

  invoke(token: string, args: Properties): Properties {
    const result = this.#fake.invoke(token, args);
    if (typeof result.token === "string") this.#tokens.add(result.token);
    return result;
  }

  hasRegistry(host: string): boolean {
    return this.#standing().some(({ outputs }) => outputs.loginServer === host);
  }

  knowsToken(token: string): boolean {
    return this.#tokens.has(token);
  }

  #keep(request: CloudRequest, { id, outputs, uses }: Created): Standing {
    const own = request.type.startsWith("docker:") ? { ...outputs, ...request.inputs } : outputs;
    const aged = request.type.endsWith(":RoleAssignment") ? { ...own, createdOn: ASSIGNED } : own;
    const standing = { request, id, outputs: aged, uses };
    if (isInAzure(request.type) || isInCluster(request.type)) this.#made.set(keyOf(request.type, id), standing);
    return standing;
  }

  /** Without what went together with something else: secrets with their vault, objects with namespace or cluster. */
  #standing(): Standing[] {
    const cluster = this.#hasCluster();
    return [...this.#made.values()].filter(
      ({ request: { type }, id }) => (cluster || !isInCluster(type)) && this.#fake.read(type, id) !== undefined,
    );
  }

  #hasCluster(): boolean {
    return [...this.#made.values()].some(({ request }) => request.type === CLUSTER);
  }
}

const CLUSTER = "azure-native:containerservice:ManagedCluster";

/** Random values are nowhere but in the state, and images lie in a registry, beyond the engine's reach. */
function isInAzure(type: string): boolean {
  return type.startsWith("azure-native:") || type.startsWith("azuread:");
}

function isInCluster(type: string): boolean {
  return type.startsWith("kubernetes:");
}

/** The name in the program is no part of it: providers are asked by type and id. */
function keyOf(type: string, id: string): string {
  return `${type} ${id.toLowerCase()}`;
}

/** Whether `gone` has to stay as long as `other` is there. */
function holds(other: Standing, gone: Standing): boolean {
  if (other === gone) return false;
  // The gateway's load balancer, which the cluster made, keeps the address to itself.
  if (other.request.type === CLUSTER && gone.request.type === "azure-native:network:PublicIPAddress") return true;
  const id = gone.id.toLowerCase();
  if (other.id.toLowerCase().startsWith(`${id}/`)) return false; // below it, and goes with it
  // Azure asks nobody inside of a cluster.
  if (isInCluster(other.request.type) && !isInCluster(gone.request.type)) return false;
  return other.uses.some((used) => used.toLowerCase() === nameAsUsed(gone));
}

/** How the fake cloud names what a resource needed: by id, or for Kubernetes objects as "<group>/<Kind> <id>". */
function nameAsUsed({ request, id }: Standing): string {
  const [provider, version = "", kind] = request.type.split(":");
  if (provider !== "kubernetes" || version === "helm.sh/v3" || version === "helm.sh/v4") return id.toLowerCase();
  const group = version.includes("/") ? (version.split("/")[0] ?? "") : "";
  return `${group === "core" ? "" : group}/${kind} ${id}`.toLowerCase();
}

/** The engine starts providers in the program's folder, from which relative paths are meant. */
function fromProviderFolder(request: CloudRequest): CloudRequest {
  const { build } = request.inputs;
  if (!isProperties(build)) return request;
  const absolute = (path: unknown) => (typeof path === "string" ? join(REPOSITORY, "infra", path) : path);
  return {
    ...request,
    inputs: {
      ...request.inputs,
      build: { ...build, context: absolute(build.context), dockerfile: absolute(build.dockerfile) },
    },
  };
}

function secretOf({ type, inputs }: CloudRequest, outputs: Properties): unknown {
  switch (type) {
    case "random:index/randomPassword:RandomPassword":
      return outputs.result;
    case "random:index/randomBytes:RandomBytes":
      return outputs.base64;
    case "azure-native:keyvault:Secret":
      return isProperties(inputs.properties) ? inputs.properties.value : undefined;
    case "azure-native:applicationinsights:Component":
      return outputs.connectionString;
    default:
      return undefined;
  }
}
