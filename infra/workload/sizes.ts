/** Of one replica. Commands of tools run in here: the limits keep them from their neighbours. */
export const SERVER_RESOURCES = {
  requests: { cpu: "250m", memory: "512Mi", "ephemeral-storage": "256Mi" },
  limits: { cpu: "2", memory: "2Gi", "ephemeral-storage": "12Gi" },
} as const;

/** Of one worker. Jobs run commands, several at once; a node of four vCPUs holds seven workers. */
export const WORKER_RESOURCES = {
  requests: { cpu: "500m", memory: "1Gi", "ephemeral-storage": "256Mi" },
  limits: { cpu: "2", memory: "4Gi", "ephemeral-storage": "12Gi" },
} as const;

/** How many workers there are, and when: rules of KEDA and of the autoscaler that it feeds. `docs/scaling.md` tries them. */
export const WORKER_SCALING = {
  /**
   * Jobs of a queue for each worker, those that run included: a message counts until it is settled. A worker runs as many
   * at once, so that enough workers leave nothing waiting.
   */
  jobsPerWorker: 5,
  /** How often KEDA asks whether there is anything to do, while there is no worker. Seconds. */
  pollingSeconds: 15,
  /** From the last job's end until the last worker goes, where the stack allows none. Seconds. */
  cooldownSeconds: 300,
  /**
   * A worker that goes is told by SIGTERM, finishes what it can within its grace, and hands back the rest, which others
   * then run: nothing is lost, but work may be. So workers go late, when the queue has wanted no more of them for ten
   * minutes, and a few at a time. The last one goes only when the queue is empty, running jobs included.
   */
  scaleDown: { stabilizationSeconds: 600, pods: 2, periodSeconds: 60 },
} as const;
