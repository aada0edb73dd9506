/*
 * How the cluster decides on workers, as far as it can be said without one: KEDA, the autoscaler of Kubernetes that it
 * feeds, and the cluster autoscaler that brings nodes. One second at a time, with no chance in it: the same figures at
 * every run.
 */

/** What is asked of the cluster. All times are seconds. */
export interface Scenario {
  /** Jobs in the queue at the beginning, and how long each runs. */
  readonly jobs: number;
  readonly jobSeconds: number;
  /** From their submission to their end, at the longest. Jobs that are late run all the same here, to say how late. */
  readonly deadlineSeconds: number;
  /** minReplicaCount and maxReplicaCount. */
  readonly workers: { readonly min: number; readonly max: number };
  readonly jobsPerWorker: number;
  readonly pollingSeconds: number;
  readonly cooldownSeconds: number;
  readonly scaleDown: { readonly stabilizationSeconds: number; readonly pods: number; readonly periodSeconds: number };
  /** Workers that find room on the nodes there are, on each further one, and how many of those there may be. */
  readonly room: { readonly now: number; readonly perNode: number; readonly moreNodes: number };
  /** From a pod's place on a node to its first job, and from a node's order to its first pod. */
  readonly podSeconds: number;
  readonly nodeSeconds: number;
}

export interface Outcome {
  readonly firstJobSeconds: number;
  readonly drainedSeconds: number;
  /** Jobs that ended before their deadline. */
  readonly inTime: number;
  readonly mostWorkers: number;
  /** When there were so many for the first time. */
  readonly mostWorkersSeconds: number;
  readonly moreNodes: number;
  /** When there were as many workers and nodes as at the beginning again. */
  readonly restSeconds: number;
  /** Of all workers together, from their place on a node until they were gone. */
  readonly workerSeconds: number;
  /** Of the nodes that were added. */
  readonly nodeSeconds: number;
}

// Kubernetes, kube-controller-manager: --horizontal-pod-autoscaler-sync-period and --horizontal-pod-autoscaler-tolerance.
const SYNC_SECONDS = 15;
const TOLERANCE = 0.1;
// Kubernetes, "Horizontal Pod Autoscaling", default scaling behaviour: twice as many, or four more, in fifteen seconds.
const SCALE_UP = { percent: 100, pods: 4, periodSeconds: 15 };
// Cluster autoscaler, FAQ: --scan-interval, --scale-down-unneeded-time and --scale-down-delay-after-add; AKS has the same.
const SCAN_SECONDS = 10;
const UNNEEDED_SECONDS = 600;
/** Nothing takes longer in any scenario worth asking for. */
const HORIZON_SECONDS = 30 * 86_400;

interface Worker {
  /** On a node since; undefined: Pending. */
  placedAt?: number;
  /** The added node that it is on; undefined: one of those that were there. */
  node?: Node;
  ending: boolean;
  /** When each of its jobs ends. */
  readonly jobs: number[];
}

interface Node {
  readonly readyAt: number;
  emptySince: number;
}

/** Lets time pass until the queue is empty and everything is as it was. */
export function simulate(scenario: Scenario): Outcome {
  const { min } = scenario.workers;
  const autoscaler = new Autoscaler(scenario);
  let waiting = scenario.jobs;
  let replicas = min;
  let workers: Worker[] = Array.from({ length: min }, () => ({
    placedAt: -scenario.podSeconds,
    ending: false,
    jobs: [],
  }));
  let nodes: Node[] = [];
  let lastActive = 0;
  let firstJob: number | undefined;
  let drained: number | undefined;
  let most = { workers: 0, at: 0 };
  let mostNodes = 0;
  let inTime = 0;
  let workerSeconds = 0;
  let nodeSeconds = 0;

  for (let now = 0; now < HORIZON_SECONDS; now++) {
    for (const worker of workers) finishJobs(worker, now);
    workers = workers.filter((worker) => !(worker.ending && worker.jobs.length === 0));
    // Peek-lock: what runs is in the queue until it is settled, and counts.
    const running = workers.reduce((sum, { jobs }) => sum + jobs.length, 0);
    const messages = waiting + running;
    if (messages === 0) drained ??= now;

    // Before KEDA: what that does, the autoscaler sees at its next look.
    if (now > 0 && now % SYNC_SECONDS === 0 && replicas > 0) replicas = autoscaler.decide(now, replicas, messages);
    // KEDA, pkg/scaling/executor: from none to some and back it scales by itself, at its own polls.
    if (now > 0 && now % scenario.pollingSeconds === 0) {
      if (messages > 0) lastActive = now;
      if (messages > 0 && replicas === 0) replicas = Math.max(1, min);
      if (messages === 0 && min === 0 && now - lastActive >= scenario.cooldownSeconds) replicas = 0;
    }

    workers = resized(workers, replicas);
    if (now % SCAN_SECONDS === 0) nodes = scaledNodes(nodes, workers, now, scenario);
    placePending(workers, nodes, now, scenario);
    for (const worker of workers) {
      while (waiting > 0 && canTake(worker, now, scenario)) {
        worker.jobs.push(now + scenario.jobSeconds);
        waiting -= 1;
        if (now + scenario.jobSeconds <= scenario.deadlineSeconds) inTime += 1;
        firstJob ??= now;
      }
    }

    const placed = workers.filter(({ placedAt }) => placedAt !== undefined).length;
    workerSeconds += placed;
    nodeSeconds += nodes.length;
    mostNodes = Math.max(mostNodes, nodes.length);
    if (placed > most.workers) most = { workers: placed, at: now };
    if (drained !== undefined && workers.length === min && nodes.length === 0) {
      return {
        firstJobSeconds: firstJob ?? 0,
        drainedSeconds: drained,
        inTime,
        mostWorkers: most.workers,
        mostWorkersSeconds: most.at,
        moreNodes: mostNodes,
        restSeconds: now,
        workerSeconds,
        nodeSeconds,
      };
    }
  }
  throw new Error(`not at rest after ${HORIZON_SECONDS} seconds: ${waiting} jobs wait for ${replicas} workers`);
}

/**
 * Kubernetes 1.36, pkg/controller/podautoscaler: the replicas that a metric of an external source asks for, held back by
 * the behaviour's policies.
 */
class Autoscaler {
  readonly #scenario: Scenario;
  readonly #recommendations: { at: number; replicas: number }[] = [];
  readonly #changes: { at: number; by: number }[] = [];

  constructor(scenario: Scenario) {
    this.#scenario = scenario;
  }

  decide(now: number, current: number, messages: number): number {
    const { workers, jobsPerWorker, scaleDown } = this.#scenario;
    // GetExternalPerPodMetricReplicas: nothing changes while the average is within the tolerance of its target.
    const ratio = messages / (jobsPerWorker * current);
    const asked = Math.abs(1 - ratio) <= TOLERANCE ? current : Math.ceil(messages / jobsPerWorker);
    this.#recommendations.push({ at: now, replicas: asked });
    // stabilizeRecommendationWithBehaviors: down only as far as the highest recommendation within the window.
    const recent = this.#recommendations.filter(({ at }) => at > now - scaleDown.stabilizationSeconds);
    const stable = asked >= current ? asked : Math.min(current, Math.max(...recent.map(({ replicas }) => replicas)));

    const next = Math.min(Math.max(stable, this.#least(now, current)), this.#most(now, current));
    // KEDA gives the autoscaler at least one: none is KEDA's own to decide.
    const decided = Math.min(Math.max(next, workers.min, 1), workers.max);
    if (decided !== current) this.#changes.push({ at: now, by: decided - current });
    return decided;
  }

  /** calculateScaleUpLimitWithScalingRules: the policy that lets through the most. */
  #most(now: number, current: number): number {
    const before = this.#before(now, current, SCALE_UP.periodSeconds);
    return Math.max(current, before + SCALE_UP.pods, Math.ceil(before * (1 + SCALE_UP.percent / 100)));
  }

  /** calculateScaleDownLimitWithBehaviors, with the one policy there is. */
  #least(now: number, current: number): number {
    const { pods, periodSeconds } = this.#scenario.scaleDown;
    return Math.min(current, this.#before(now, current, periodSeconds) - pods);
  }

  /** How many there were when the policy's period began. */
  #before(now: number, current: number, periodSeconds: number): number {
    const within = this.#changes.filter(({ at }) => at > now - periodSeconds);
    return within.reduce((replicas, { by }) => replicas - by, current);
  }
}

function finishJobs(worker: Worker, now: number): void {
  // All jobs last as long, so they end in the order in which they began.
  while (worker.jobs[0] !== undefined && worker.jobs[0] <= now) worker.jobs.shift();
}

/** As a ReplicaSet does it: pods that wait for a place go first, then the youngest. Whoever goes finishes what it has. */
function resized(workers: Worker[], replicas: number): Worker[] {
  const staying = workers.filter(({ ending }) => !ending);
  const more = Array.from(
    { length: Math.max(0, replicas - staying.length) },
    (): Worker => ({ ending: false, jobs: [] }),
  );
  const byAge = [...staying].sort((a, b) => (a.placedAt ?? Infinity) - (b.placedAt ?? Infinity));
  for (const worker of byAge.slice(replicas)) worker.ending = true;
  return [...workers, ...more].filter(({ ending, placedAt }) => !(ending && placedAt === undefined));
}

/** More nodes for pods that wait, and fewer where a node has stood empty for long enough. */
function scaledNodes(nodes: Node[], workers: readonly Worker[], now: number, { room, nodeSeconds }: Scenario): Node[] {
  for (const node of nodes) if (workers.some((worker) => worker.node === node)) node.emptySince = now;
  const kept = nodes.filter(({ emptySince, readyAt }) => now < Math.max(emptySince, readyAt) + UNNEEDED_SECONDS);
  const pending = workers.filter(({ placedAt }) => placedAt === undefined).length;
  const places = [undefined, ...kept].reduce((sum, node) => sum + free(node, workers, room), 0);
  const wanted = Math.ceil(Math.max(0, pending - places) / room.perNode);
  const ordered = Math.min(wanted, room.moreNodes - kept.length);
  const order = (): Node => ({ readyAt: now + nodeSeconds, emptySince: now + nodeSeconds });
  return [...kept, ...Array.from({ length: ordered }, order)];
}

function placePending(workers: readonly Worker[], nodes: readonly Node[], now: number, { room }: Scenario): void {
  const ready = nodes.filter(({ readyAt }) => readyAt <= now);
  for (const worker of workers) {
    if (worker.placedAt !== undefined) continue;
    const places = [undefined, ...ready];
    const place = places.findIndex((node) => free(node, workers, room) > 0);
    if (place === -1) return;
    worker.placedAt = now;
    const node = places[place];
    if (node !== undefined) worker.node = node;
  }
}

function free(node: Node | undefined, workers: readonly Worker[], room: Scenario["room"]): number {
  const there = workers.filter((worker) => worker.placedAt !== undefined && worker.node === node).length;
  return (node === undefined ? room.now : room.perNode) - there;
}

function canTake({ placedAt, ending, jobs }: Worker, now: number, { podSeconds, jobsPerWorker }: Scenario): boolean {
  return placedAt !== undefined && !ending && now - placedAt >= podSeconds && jobs.length < jobsPerWorker;
}
