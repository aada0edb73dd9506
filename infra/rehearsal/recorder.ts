import { MockMonitor } from "@pulumi/pulumi/runtime/mocks.js";
import type { FakeCloud } from "./cloud.ts";
import type { Fault } from "./cloud-error.ts";
import { asSecret, decode, Secrets } from "./masking.ts";
import { isProperties, type Properties, textAt } from "./values.ts";

/** A resource as the program registered it. */
export interface Registration {
  readonly urn: string;
  readonly type: string;
  readonly name: string;
  readonly parent: string;
  readonly provider: string;
  readonly dependsOn: readonly string[];
  readonly propertyDependencies: Readonly<Record<string, readonly string[]>>;
  /** Real values, secrets among them. */
  readonly inputs: Properties;
  readonly maskedInputs: Properties;
  readonly options: Properties;
  readonly custom: boolean;
  /** `refused`: by the cloud; `skipped`: because something before it was. */
  readonly outcome: "created" | "refused" | "skipped";
  /** By what others' `uses` know it. */
  readonly key?: string;
  /** What had to exist already when the cloud made it. */
  readonly uses: readonly string[];
}

/** What Pulumi's runtime asks of the request objects that it makes. */
interface RegisterRequest {
  getType(): string;
  getName(): string;
  getParent(): string;
  getCustom(): boolean;
  getRemote(): boolean;
  getObject(): { toJavaScript(): Properties } | undefined;
  getProvider(): string;
  getDependenciesList(): string[];
  getPropertydependenciesMap(): { entries(): Iterable<[string, { getUrnsList(): string[] }]> };
  getAdditionalsecretoutputsList(): string[];
  getProtect(): boolean;
  getRetainondelete(): boolean;
  getIgnorechangesList(): string[];
  getReplaceonchangesList(): string[];
  getDeletebeforereplace(): boolean;
  getDeletedwith(): string;
  getImportid(): string;
  getCustomtimeouts(): { getCreate(): string; getUpdate(): string; getDelete(): string } | undefined;
}
interface InvokeRequest {
  getTok(): string;
  getArgs(): { toJavaScript(): Properties } | undefined;
}
interface OutputsRequest {
  getUrn(): string;
  getOutputs(): { toJavaScript(): Properties } | undefined;
}
type Answer = (error: unknown, response: unknown) => void;

const STACK_TYPE = "pulumi:pulumi:Stack";

/**
 * The engine's side of a preview in which everything is known: hands each resource to the fake clouds, answers what
 * they answer, and writes down what the runtime tells the engine and its mocks keep from a test.
 *
 * A refused resource is answered with unknown outputs, and what needs it is skipped. So the program runs to its end,
 * every refusal is found in one go, and nothing rejects that nobody waits for.
 */
export class Recorder extends MockMonitor {
  readonly registrations = new Map<string, Registration>();
  readonly faults: Fault[] = [];
  readonly secrets = new Secrets();
  outputs: Properties = {};
  maskedOutputs: Properties = {};

  readonly #cloud: FakeCloud;
  readonly #project: string;
  readonly #stack: string;

  constructor(cloud: FakeCloud, project: string, stack: string) {
    // Every request is answered below; the mocks of the base class are never asked.
    super({ call: () => ({}), newResource: () => ({ id: "", state: {} }) });
    this.#cloud = cloud;
    this.#project = project;
    this.#stack = stack;
  }

  override async registerResource(request: RegisterRequest, answer: Answer): Promise<void> {
    const urn = this.#urn(request);
    const { value, masked, secrets, hasUnknown } = decode(request.getObject()?.toJavaScript() ?? {});
    const inputs = isProperties(value) ? value : {};
    this.secrets.add(secrets);
    const propertyDependencies = Object.fromEntries(
      [...request.getPropertydependenciesMap().entries()].map(([key, urns]) => [key, urns.getUrnsList().sort()]),
    );
    const provider = request.getProvider();
    const [providerUrn = ""] = provider.split(/::(?!.*::)/);
    const base = {
      urn,
      type: request.getType(),
      name: request.getName(),
      parent: request.getParent(),
      provider: providerUrn,
      // A resource waits for its provider as for anything else it needs.
      dependsOn: [...new Set([...request.getDependenciesList(), ...(providerUrn === "" ? [] : [providerUrn])])].sort(),
      propertyDependencies,
      inputs,
      maskedInputs: isProperties(masked) ? masked : {},
      options: optionsOf(request),
      custom: request.getCustom() || request.getRemote(),
    };
    if (this.registrations.has(urn)) {
      this.#fault(base, `Duplicate resource URN '${urn}'; try giving it a unique name`);
      answer(null, response(urn, "", {}));
      return;
    }
    const { outcome, id, outputs, key, uses } = this.#perform(base, hasUnknown);
    this.registrations.set(urn, { ...base, outcome, key, uses });
    answer(null, response(urn, id, this.#withSecrets(request, outputs)));
  }

  override async invoke(request: InvokeRequest, answer: Answer): Promise<void> {
    const token = request.getTok();
    const { value } = decode(request.getArgs()?.toJavaScript() ?? {});
    let returned: Properties | undefined;
    try {
      returned = this.#cloud.invoke(token, isProperties(value) ? value : {});
    } catch (error) {
      this.faults.push({ name: token, message: messageOf(error) });
    }
    answer(null, {
      getFailuresList: () => [],
      getReturn: () => ({ toJavaScript: () => returned ?? {} }),
      getUnknown: () => returned === undefined,
    });
  }

  override registerResourceOutputs(request: OutputsRequest, answer: Answer): void {
    if (request.getUrn().includes(`::${STACK_TYPE}::`)) {
      const { value, masked, secrets } = decode(request.getOutputs()?.toJavaScript() ?? {});
      this.secrets.add(secrets);
      if (isProperties(value)) this.outputs = value;
      if (isProperties(masked)) this.maskedOutputs = masked;
    }
    answer(null, {});
  }

  override async readResource(request: RegisterRequest, answer: Answer): Promise<void> {
    const message = "the rehearsal does not read existing resources; look them up by a function of their provider";
    this.faults.push({ name: request.getName(), message });
    answer(null, response(this.#urn(request), "", {}));
  }

  #perform(
    { type, name, parent, dependsOn, inputs, provider, custom, urn }: Omit<Registration, "outcome" | "key" | "uses">,
    hasUnknown: boolean,
  ): Pick<Registration, "outcome" | "key" | "uses"> & { id: string; outputs: Properties } {
    const nothing = { id: "", outputs: {}, uses: [] };
    const failed = (other: string) => ["refused", "skipped"].includes(this.registrations.get(other)?.outcome ?? "");
    if (hasUnknown || failed(parent) || dependsOn.some(failed)) return { outcome: "skipped", ...nothing };
    if (!custom) return { outcome: "created", ...nothing };
    if (type.startsWith("kubernetes:") && provider === "") {
      this.#fault(
        { name, urn },
        "has no provider: it would go to whatever cluster the deployer's kubectl points to; pass the cluster's provider",
      );
      return { outcome: "refused", ...nothing };
    }
    try {
      return { outcome: "created", ...this.#cloud.create({ type, name, inputs }) };
    } catch (error) {
      this.#fault({ name, urn }, messageOf(error));
      return { outcome: "refused", ...nothing };
    }
  }

  /** What the engine does for secrets: outputs of secret inputs, and those that the SDK says are. */
  #withSecrets(request: RegisterRequest, outputs: Properties): Properties {
    const additional = new Set(request.getAdditionalsecretoutputsList());
    const raw: Properties = request.getObject()?.toJavaScript() ?? {};
    return Object.fromEntries(
      Object.entries(outputs).map(([key, value]) => {
        const input = key in raw ? decode(raw[key]) : undefined;
        const isSecret = additional.has(key) || (input !== undefined && input.secrets.length > 0);
        if (!isSecret) return [key, value];
        const found = decode(asSecret(value)).secrets;
        if (additional.has(key)) this.secrets.add(found);
        return [key, asSecret(value)];
      }),
    );
  }

  #fault({ name, urn }: { name: string; urn: string }, message: string): void {
    this.faults.push({ name, resource: urn, message });
  }

  /** As the engine makes it: the types of all parents but the stack, joined by `$`. */
  #urn(request: Pick<RegisterRequest, "getParent" | "getType" | "getName">): string {
    const parentType = request.getParent().split("::")[2];
    const qualified =
      parentType === undefined || parentType === STACK_TYPE ? request.getType() : `${parentType}$${request.getType()}`;
    return `urn:pulumi:${this.#stack}::${this.#project}::${qualified}::${request.getName()}`;
  }
}

function response(urn: string, id: string, outputs: Properties) {
  return {
    getUrn: () => urn,
    getId: () => id,
    getObject: () => ({ toJavaScript: () => outputs }),
    getPropertydependenciesMap: () => undefined,
    getResult: () => 0,
    getUnknown: () => false,
  };
}

function optionsOf(request: RegisterRequest): Properties {
  const timeouts = request.getCustomtimeouts();
  const options = {
    protect: request.getProtect(),
    retainOnDelete: request.getRetainondelete(),
    deletedWith: request.getDeletedwith(),
    ignoreChanges: request.getIgnorechangesList(),
    replaceOnChanges: request.getReplaceonchangesList(),
    deleteBeforeReplace: request.getDeletebeforereplace(),
    import: request.getImportid(),
    customTimeouts: Object.fromEntries(
      Object.entries({
        create: timeouts?.getCreate(),
        update: timeouts?.getUpdate(),
        delete: timeouts?.getDelete(),
      }).filter(([, t]) => t),
    ),
  };
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => (typeof value === "object" ? Object.keys(value).length > 0 : value)),
  );
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The name that a resource has in its cloud: in Azure's or the object's own words, else the program's. */
export function namesIn(inputs: Properties): string[] {
  const own = Object.entries(inputs).filter(([key, value]) => /Name$|^name$/.test(key) && typeof value === "string");
  const metadata = [textAt(inputs, "metadata.name"), textAt(inputs, "metadata.namespace"), textAt(inputs, "namespace")];
  return [...own.map(([, value]) => String(value)), ...metadata.filter((name) => name !== undefined)];
}
