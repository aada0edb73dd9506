import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join, posix } from "node:path";
import { CHECKOUT } from "./checkout.ts";
import { CliError } from "./cli-error.ts";
import { containerEnvironment } from "./container-environment.ts";
import { type ImageConfig, imageConfig } from "./image-file.ts";
import {
  type Container,
  Deployment,
  HttpRoute,
  type Manifest,
  objectsOf,
  type Probe,
  Service,
} from "./kubernetes-objects.ts";

/** The server's container as the plan deploys it: what the kubelet would hand to the container runtime. */
export interface DeployedServer {
  readonly deployment: Deployment;
  readonly container: Container;
  readonly image: ImageConfig;
  /** Entry point and arguments; `$(NAME)` expanded. */
  readonly command: readonly string[];
  readonly workingDir: string;
  /** The image's environment under the pod's. */
  readonly environment: Readonly<Record<string, string>>;
  /** Port that the Service sends clients to. */
  readonly port: number;
  readonly probes: { readonly startup?: Probe; readonly readiness?: Probe; readonly liveness?: Probe };
  readonly terminationGraceSeconds: number;
}

/**
 * Finds the server by the way that a request takes: the route's backend, its pods, the container that has the port.
 *
 * @throws CliError when that way ends somewhere.
 * @throws ContainerConfigError when the kubelet would not start the container.
 */
export function deployedServer(manifests: readonly Manifest[], checkout = CHECKOUT): DeployedServer {
  const services = objectsOf(Service, manifests);
  const deployments = objectsOf(Deployment, manifests);
  const backends = objectsOf(HttpRoute, manifests).flatMap((route) =>
    route.spec.rules.flatMap((rule) =>
      rule.backendRefs
        .filter((ref) => ref.kind === "Service")
        .map((ref) => ({ ...ref, namespace: ref.namespace ?? route.metadata.namespace })),
    ),
  );
  for (const backend of backends) {
    const service = services.find(
      ({ metadata }) => metadata.name === backend.name && metadata.namespace === backend.namespace,
    );
    const servicePort = service?.spec.ports.find(({ port }) => backend.port === undefined || port === backend.port);
    if (!service || !servicePort) continue;
    const deployment = deployments.find((candidate) => selects(service, candidate));
    const target = servicePort.targetPort ?? servicePort.port;
    const container = deployment?.spec.template.spec.containers.find(({ ports }) =>
      ports.some((port) => port.containerPort === target || port.name === target),
    );
    if (deployment && container) {
      return fromContainer(deployment, container, portNumber(container, target), manifests, checkout);
    }
  }
  throw new CliError(
    "The plan has no HTTPRoute that leads to a container: no route names a Service whose pods a Deployment makes.",
  );
}

function selects({ metadata, spec }: Service, { metadata: own, spec: { template } }: Deployment): boolean {
  return (
    metadata.namespace === own.namespace &&
    Object.entries(spec.selector ?? {}).every(([key, value]) => template.metadata.labels[key] === value) &&
    Object.keys(spec.selector ?? {}).length > 0
  );
}

/** A port by its number, or by the name it has in the container. */
export function portNumber(container: Container, port: number | string): number {
  if (typeof port === "number") return port;
  const named = container.ports.find(({ name }) => name === port);
  if (named) return named.containerPort;
  throw new CliError(`Container ${container.name} has no port named "${port}"; name it under ports.`);
}

function fromContainer(
  deployment: Deployment,
  container: Container,
  port: number,
  manifests: readonly Manifest[],
  checkout: string,
): DeployedServer {
  const image = imageConfig(readFileSync(join(checkout, "server", "Dockerfile"), "utf8"));
  const { startupProbe, readinessProbe, livenessProbe } = container;
  return {
    deployment,
    container,
    image,
    // Kubernetes: command replaces the entry point and drops the image's arguments; args replaces those alone.
    command: [
      ...(container.command ?? image.entrypoint),
      ...(container.args ?? (container.command ? [] : image.command)),
    ],
    workingDir: container.workingDir ?? image.workingDir,
    environment: { ...image.environment, ...containerEnvironment(container, deployment, manifests) },
    port,
    probes: {
      ...(startupProbe && { startup: startupProbe }),
      ...(readinessProbe && { readiness: readinessProbe }),
      ...(livenessProbe && { liveness: livenessProbe }),
    },
    terminationGraceSeconds: deployment.spec.template.spec.terminationGracePeriodSeconds,
  };
}

/** How a deployed server is run on this machine, and in what that differs from its container. */
export interface LocalServer {
  readonly command: readonly string[];
  readonly directory: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly url: string;
  readonly metricsUrl: string;
  /** Container port to local port. */
  readonly ports: ReadonlyMap<number, number>;
  /** Directories to be made before the start, each under the volume directory. */
  readonly directories: readonly string[];
  /** Every difference from the container, for people. */
  readonly differences: readonly string[];
}

export interface LocalOptions {
  /** Where volumes are: a directory of the rehearsal's own. */
  readonly volumes: string;
  /** The key that opens it, instead of the plan's; for a server that takes keys. */
  readonly key?: string;
  /** Where the stand-in for Entra answers, for a server that takes tokens. */
  readonly authority?: string;
  /** Ports instead of the plan's. */
  readonly ports?: { readonly http: number; readonly metrics: number };
  readonly checkout?: string;
}

/** Where the image has the server. */
const SERVER_IN_IMAGE = "/app/server";
const LOOPBACK = "127.0.0.1";

/**
 * The one place that decides how a local process differs from the container: where it listens, where its volumes are,
 * and what of the image is taken from this machine.
 */
export function localServer(server: DeployedServer, options: LocalOptions): LocalServer {
  const { container, environment } = server;
  const checkout = options.checkout ?? CHECKOUT;
  const differences: string[] = [];
  const differs = (line: string) => differences.push(line);
  const local: Record<string, string> = { ...environment };

  if (environment.HOST !== LOOPBACK) {
    local.HOST = LOOPBACK;
    differs(
      `listens on ${LOOPBACK}, which only this machine reaches, rather than on ${environment.HOST ?? "its default"}`,
    );
  }
  if (environment.API_KEY_HASHES !== undefined && options.key !== undefined) {
    local.API_KEY_HASHES = hashOf(options.key);
    differs("opens to a key made just now, for the in-memory cloud's random values are the same everywhere");
  }
  if (environment.API_KEYS_SECRET !== undefined) {
    delete local.API_KEYS_SECRET;
    differs("reads no register of keys, for there is no vault to read it from");
  }
  if (environment.AUDIT_INGESTION_ENDPOINT !== undefined) {
    delete local.AUDIT_INGESTION_ENDPOINT;
    delete local.AUDIT_INGESTION_RULE;
    differs("keeps its audit trail in its log alone, for there is no Log Analytics to send it to");
  }
  if (environment.REDIS_HOST !== undefined) {
    delete local.REDIS_HOST;
    delete local.REDIS_PORT;
    differs("counts limits and keeps tickets in memory, for there is no Redis");
  }
  if (environment.COMMAND_ISOLATION === "required") {
    // Neither works on every machine that this runs on, and without isolation no network can be kept from a command.
    local.COMMAND_ISOLATION = "auto";
    local.COMMAND_NETWORK = "true";
    differs(
      "isolates commands as far as this machine can, rather than not start where it cannot; they have its network",
    );
  }
  const planned = { http: server.port, metrics: Number(environment.METRICS_PORT ?? 9090) };
  const ports = options.ports ?? planned;
  if (ports.http !== planned.http || ports.metrics !== planned.metrics) {
    local.PORT = String(ports.http);
    local.METRICS_PORT = String(ports.metrics);
    differs(`ports ${ports.http} and ${ports.metrics} rather than ${planned.http} and ${planned.metrics}`);
  }

  if (environment.SHUTDOWN_DRAIN_SECONDS !== undefined && environment.SHUTDOWN_DRAIN_SECONDS !== "0") {
    local.SHUTDOWN_DRAIN_SECONDS = "0";
    differs("ends without waiting for load balancers to take notice, for there are none");
  }

  const mounts = container.volumeMounts.map(({ name, mountPath, subPath }) => ({
    mountPath: posix.normalize(mountPath),
    directory: join(options.volumes, name, ...(subPath === undefined ? [] : [subPath])),
  }));
  for (const { mountPath, directory } of mounts) {
    for (const [name, value] of Object.entries(local)) {
      const path = underMount(value, mountPath);
      if (path !== undefined) local[name] = join(directory, path);
    }
    // What a program writes to /tmp by itself follows the variable.
    if (mountPath === "/tmp") local.TMPDIR = directory;
    differs(`${mountPath} is a temporary directory, gone with the rehearsal`);
  }

  const inServer = posix.relative(SERVER_IN_IMAGE, server.workingDir);
  if (inServer.startsWith("..")) {
    throw new CliError(
      `The container starts in ${server.workingDir}, and the checkout has only what the image keeps in ${SERVER_IN_IMAGE}.`,
    );
  }
  differs(`code and Node ${process.versions.node} of this checkout rather than of the image, as this user`);
  const federated = server.deployment.spec.template.metadata.labels["azure.workload.identity/use"] === "true";
  if (federated && options.authority !== undefined) {
    local.AZURE_AUTHORITY_HOST = options.authority;
    differs(
      "of what the webhook of workload identity injects, it has AZURE_AUTHORITY_HOST alone: a stand-in for Entra, here",
    );
  } else if (federated) differs("no workload identity: the variables that its webhook injects are absent");

  const [program = "node", ...args] = withoutInit(server.command);
  if (args.length < server.command.length - 1) differs("no init process; it is this process's child");
  return {
    command: [posix.basename(program) === "node" ? process.execPath : program, ...args],
    directory: join(checkout, "server", inServer),
    environment: { ...machineEnvironment(), ...local },
    url: `http://${LOOPBACK}:${ports.http}/mcp`,
    metricsUrl: `http://${LOOPBACK}:${ports.metrics}/metrics`,
    ports: new Map([
      [planned.http, ports.http],
      [planned.metrics, ports.metrics],
    ]),
    directories: mounts.map(({ directory }) => directory),
    differences,
  };
}

/** What the image's base provides and a process of this machine needs: nothing of the user's own variables. */
function machineEnvironment(): Record<string, string> {
  const names = ["PATH", "SystemRoot", "ComSpec", "PATHEXT"];
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name] ?? ""]])),
  );
}

/** A container's process 1 that only passes signals on, `tini -- node main.js`: not on every machine, and not needed. */
function withoutInit(command: readonly string[]): readonly string[] {
  const isInit = /^(tini|dumb-init)$/.test(posix.basename(command[0] ?? ""));
  return isInit ? command.slice(Math.max(command.indexOf("--"), 0) + 1) : command;
}

function underMount(value: string, mountPath: string): string | undefined {
  if (value === mountPath) return "";
  return value.startsWith(`${mountPath}/`) ? value.slice(mountPath.length + 1) : undefined;
}

/** A key that only this rehearsal knows, in the form of the deployed ones. */
export function throwAwayKey(stack: string): string {
  return `mcp_${stack}_${randomBytes(32).toString("base64url")}`;
}

/** An entry of the server's API_KEY_HASHES. */
function hashOf(key: string): string {
  return `sha256:${createHash("sha256").update(key).digest("hex")}`;
}
