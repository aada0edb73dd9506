import { inspect } from "node:util";
import { runtime } from "@pulumi/pulumi";
import { FakeCloud } from "./cloud.ts";
import type { Fault } from "./cloud-error.ts";
import { dependencyFaults } from "./dependencies.ts";
import { existingBefore } from "./existing.ts";
import type { FakeKubernetes } from "./kubernetes/kubernetes.ts";
import { namesIn, Recorder, type Registration } from "./recorder.ts";
import { type Program, runProgram } from "./run-program.ts";
import { isEncrypted, namespaced, ROOT, readProject, readStackConfig } from "./stack-file.ts";
import type { Properties } from "./values.ts";
import { planWarnings } from "./warnings.ts";

/**
 * A resource of a plan. In memory `inputs` hold real values, for the rehearsal starts the server with them; printed or
 * turned into JSON, a resource shows its secrets as "[secret]".
 */
export interface PlannedResource {
  readonly urn: string;
  /** Pulumi's token. */
  readonly type: string;
  readonly name: string;
  /** URN of the component or stack that it belongs to; empty for the stack itself. */
  readonly parent: string;
  /** URNs of everything it waits for: by `dependsOn`, through outputs, and its provider. Sorted. */
  readonly dependsOn: readonly string[];
  /** By input: URNs of the resources whose outputs it is made from. */
  readonly propertyDependencies: Readonly<Record<string, readonly string[]>>;
  readonly inputs: Properties;
  /** Resource options that are set: protect, retainOnDelete, ignoreChanges, customTimeouts and the like. */
  readonly options?: Properties;
}

/** What `pulumi up` would make of a stack. */
export interface Plan {
  readonly stack: string;
  /** In the order in which the program registered them. */
  readonly resources: readonly PlannedResource[];
  /** Secrets masked. */
  readonly outputs: Properties;
  /** What works and deserves a look. */
  readonly warnings: readonly string[];
  /** What would not work; a plan with faults is incomplete. */
  readonly faults: readonly Fault[];
  /** The cluster as it would be, with real values. Never part of the plan's JSON. */
  readonly cluster: FakeKubernetes;
  /** Outputs with real values. Never part of the plan's JSON. */
  readonly revealedOutputs: Properties;
}

export interface RehearsalOptions {
  /** Settings over those of the stack's file: `mcp:replicas` or `replicas` to text; lists as JSON. */
  readonly overrides?: Readonly<Record<string, string>>;
  /** Default: infra/index.ts. */
  readonly program?: Program;
  /** Default: read from the stack's file. */
  readonly config?: Readonly<Record<string, string>>;
  readonly root?: string;
}

// Pulumi's runtime keeps one program's state in the process, so rehearsals take turns.
let turn: Promise<unknown> = Promise.resolve();

/**
 * Runs the Pulumi program of a stack against clouds in memory, as a preview in which everything is known.
 *
 * Does not throw for what the clouds refuse: that is the plan's `faults`.
 *
 * @throws StackFileError for an unknown stack, SettingsError (or whatever else the program throws before its first
 *   resource is refused) for bad settings.
 */
export function rehearsePlan(stack: string, options: RehearsalOptions = {}): Promise<Plan> {
  const plan = turn.then(() => rehearse(stack, options));
  turn = plan.catch(() => undefined);
  return plan;
}

async function rehearse(stack: string, options: RehearsalOptions): Promise<Plan> {
  const root = options.root ?? ROOT;
  const project = readProject(root).name;
  const file = options.config ?? readStackConfig(stack, root);
  const overrides: Record<string, string> = Object.fromEntries(
    Object.entries(options.overrides ?? {}).map(([key, value]) => [namespaced(key, project), value]),
  );
  const config = { ...file, ...overrides };
  // What is given beside the file lies nowhere in the clear.
  const secretKeys = Object.keys(config).filter((key) => Object.hasOwn(overrides, key) || isEncrypted(key, file[key]));
  const program = options.program ?? (await import("../index.ts")).default;

  const cloud = new FakeCloud(existingBefore(config));
  const recorder = new Recorder(cloud, project, stack);
  runtime.setMockOptions(recorder, project, stack, true, "rehearsal");
  runtime.setAllConfig(config, secretKeys);
  const logged = await runProgram(program, recorder);

  const registrations = [...recorder.registrations.values()];
  const created = registrations.filter((r) => r.custom && r.outcome === "created");
  recorder.secrets.allow(registrations.flatMap((r) => [r.name, ...namesIn(r.inputs)]));
  const faults = [...recorder.faults, ...dependencyFaults(registrations)];
  // After a refusal half of everything is missing, and so would be what it refers to.
  if (faults.length === 0 && created.length > 0) faults.push(...cloud.verify());
  const mask = (value: unknown) => recorder.secrets.mask(value) as Properties;
  const plan: Omit<Plan, "cluster" | "revealedOutputs"> = {
    stack,
    resources: registrations.map((r) => planned(r, mask)),
    outputs: mask(recorder.maskedOutputs),
    warnings: [...logged, ...planWarnings(registrations)].map((warning) => String(recorder.secrets.mask(warning))),
    faults: faults.map((fault) => ({ ...fault, message: String(recorder.secrets.mask(fault.message)) })),
  };
  return Object.defineProperties(plan, {
    cluster: { value: cloud.kubernetes },
    revealedOutputs: { value: recorder.outputs },
  }) as Plan;
}

function planned(registration: Registration, mask: (value: unknown) => Properties): PlannedResource {
  const { urn, type, name, parent, dependsOn, propertyDependencies, inputs, maskedInputs, options } = registration;
  const resource = {
    urn,
    type,
    name,
    parent,
    dependsOn,
    propertyDependencies: Object.fromEntries(
      Object.entries(propertyDependencies).filter(([, urns]) => urns.length > 0),
    ),
    inputs,
    ...(Object.keys(options).length > 0 && { options }),
  };
  const masked = () => ({ ...resource, inputs: mask(maskedInputs) });
  return Object.defineProperties(resource, { toJSON: { value: masked }, [inspect.custom]: { value: masked } });
}
