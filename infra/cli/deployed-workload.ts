import { readFileSync } from "node:fs";
import { join } from "node:path";
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

/** A container as the plan deploys it: what the kubelet would hand to the container runtime. */
export interface DeployedWorkload {
  /** What people call it: `server`, `worker`. */
  readonly title: string;
  readonly deployment: Deployment;
  readonly container: Container;
  readonly image: ImageConfig;
  /** Entry point and arguments; `$(NAME)` expanded. */
  readonly command: readonly string[];
  readonly workingDir: string;
  /** The image's environment under the pod's. */
  readonly environment: Readonly<Record<string, string>>;
  readonly probes: { readonly startup?: Probe; readonly readiness?: Probe; readonly liveness?: Probe };
  readonly terminationGraceSeconds: number;
}

/** The workload that clients reach. */
export interface DeployedServer extends DeployedWorkload {
  /** Port that the Service sends clients to. */
  readonly port: number;
}

/** The Deployment of the worker (infra/workload/job-worker.ts): no Service leads to it, and KEDA knows it by this name. */
const WORKER = "job-worker";

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
      const workload = fromContainer("server", deployment, container, manifests, checkout);
      return { ...workload, port: portNumber(container, target) };
    }
  }
  throw new CliError(
    "The plan has no HTTPRoute that leads to a container: no route names a Service whose pods a Deployment makes.",
  );
}

/**
 * Finds the worker that runs the jobs.
 *
 * @throws CliError when the plan has none.
 * @throws ContainerConfigError when the kubelet would not start the container.
 */
export function deployedWorker(manifests: readonly Manifest[], checkout = CHECKOUT): DeployedWorkload {
  const deployment = objectsOf(Deployment, manifests).find(({ metadata }) => metadata.name === WORKER);
  const container = deployment?.spec.template.spec.containers[0];
  if (deployment && container) return fromContainer("worker", deployment, container, manifests, checkout);
  throw new CliError(`The plan has no Deployment ${WORKER}: the server would send jobs that nobody runs.`);
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
  title: string,
  deployment: Deployment,
  container: Container,
  manifests: readonly Manifest[],
  checkout: string,
): DeployedWorkload {
  const image = imageConfig(readFileSync(join(checkout, "server", "Dockerfile"), "utf8"));
  const { startupProbe, readinessProbe, livenessProbe } = container;
  return {
    title,
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
    probes: {
      ...(startupProbe && { startup: startupProbe }),
      ...(readinessProbe && { readiness: readinessProbe }),
      ...(livenessProbe && { liveness: livenessProbe }),
    },
    terminationGraceSeconds: deployment.spec.template.spec.terminationGracePeriodSeconds,
  };
}
