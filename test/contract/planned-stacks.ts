import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { output, runtime } from "@pulumi/pulumi";
import { type DeployedServer, deployedServer } from "../../infra/cli/deployed-workload.ts";
import { waitForProbe } from "../../infra/cli/kubelet.ts";
import type { Manifest } from "../../infra/cli/kubernetes-objects.ts";
import { type LocalIdentity, localIdentity } from "../../infra/cli/local-identity.ts";
import { freePorts, startWorkload } from "../../infra/cli/local-process.ts";
import { localServer } from "../../infra/cli/local-workload.ts";
import { type Plan, type PlannedResource, rehearsePlan } from "../../infra/rehearsal/plan.ts";

export const STACKS = ["dev", "staging", "prod"] as const;

/** A plan, and what the program really gave each resource, which the plan masks. */
export interface Planned {
  readonly plan: Plan;
  /** Inputs as they are, in the order of the program. */
  readonly given: readonly { readonly type: string; readonly name: string; readonly inputs: Record<string, unknown> }[];
}

const planned = new Map<string, Promise<Planned>>();

/** A stack's plan, made once in each test file. */
export async function planOf(stack: string): Promise<Plan> {
  return (await planAndInputsOf(stack)).plan;
}

/** The same with real inputs, seen by a transformation of the program's own runtime rather than by the plan. */
export function planAndInputsOf(stack: string): Promise<Planned> {
  const result = planned.get(stack) ?? makePlan(stack);
  planned.set(stack, result);
  return result;
}

async function makePlan(stack: string): Promise<Planned> {
  const given: Promise<Planned["given"][number]>[] = [];
  const program = async () => {
    runtime.registerStackTransformation(({ type, name, props }) => {
      given.push(resolved(props).then((inputs) => ({ type, name, inputs })));
      return undefined;
    });
    const { default: program } = await import("../../infra/index.ts");
    return program();
  };
  const plan = await rehearsePlan(stack, { program });
  return { plan, given: await Promise.all(given) };
}

/** What inputs resolve to, secrets as well. */
function resolved(props: Record<string, unknown>): Promise<Record<string, unknown>> {
  return new Promise((resolve) => {
    output<Record<string, unknown>>(props).apply((value) => resolve({ ...value }));
  });
}

/** The planned resources of a type, by the end of its token: `keyvault:Vault`. */
export function resourcesOf({ resources }: Plan, type: string): PlannedResource[] {
  return resources.filter((resource) => resource.type.endsWith(`:${type}`));
}

/** The objects that the plan's cluster has, with their real values. */
export function manifestsOf({ cluster }: Plan): Manifest[] {
  return cluster.objects().map(({ object }) => object);
}

export interface StartedServer {
  readonly url: string;
  readonly identity: LocalIdentity;
  readonly server: DeployedServer;
  stop(): Promise<void>;
}

/** The server of a plan, started on this machine and probed as its Deployment says. */
export async function startPlanned(plan: Plan): Promise<StartedServer> {
  const server = deployedServer(manifestsOf(plan));
  const volumes = await mkdtemp(join(tmpdir(), "mcp-contract-"));
  const identity = await localIdentity(server.environment, plan.stack);
  const local = localServer(server, { ...identity, volumes, ports: await freePorts() });
  const running = await startWorkload(local, server.terminationGraceSeconds);
  const stop = async () => {
    await running.stop();
    await identity.close();
    await rm(volumes, { recursive: true, force: true });
  };
  try {
    for (const name of ["startup", "readiness", "liveness"] as const) {
      const probe = server.probes[name];
      if (probe) await waitForProbe(name, probe, server, local, running);
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return { url: local.url, identity, server, stop };
}

/** A value inside a planned resource's inputs, by its path. */
export function at(value: unknown, ...path: (string | number)[]): unknown {
  let place = value;
  for (const key of path) {
    if (typeof place !== "object" || place === null) return undefined;
    place = Object.getOwnPropertyDescriptor(place, key)?.value;
  }
  return place;
}
