import { kubernetesError } from "../cloud-error.ts";
import {
  at,
  isProperties,
  listAt,
  numberAt,
  objectAt,
  objectsAt,
  type Properties,
  textAt,
  textMapAt,
} from "../values.ts";
import type { Kind } from "./kinds.ts";
import { containersOf, selects, workloadOf } from "./objects.ts";
import { quantity } from "./quantity.ts";
import { invalid } from "./schemas.ts";

// RFC 1123 and 1035 as Kubernetes words them (apimachinery, util/validation).
const SUBDOMAIN = {
  pattern: /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/,
  sentence:
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
};
const LABEL = {
  pattern: /^(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?$/,
  sentence:
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
};
const DNS_1035 = {
  pattern: /^(?=.{1,63}$)[a-z]([-a-z0-9]*[a-z0-9])?$/,
  sentence:
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
};
/** RBAC names are path segments: anything but these. */
const PATH_SEGMENT = { pattern: /^(?!\.{1,2}$)[^/%]+$/, sentence: "may not be '.', '..' or contain '/' or '%'" };

const NAMES: Readonly<Record<string, { pattern: RegExp; sentence: string }>> = {
  Namespace: LABEL,
  Service: DNS_1035,
  Role: PATH_SEGMENT,
  ClusterRole: PATH_SEGMENT,
  RoleBinding: PATH_SEGMENT,
  ClusterRoleBinding: PATH_SEGMENT,
};

/** Checks what the API server and the usual admission webhooks check beyond the schema. @throws CloudError */
export function checkSemantics(kind: Kind, object: Properties): void {
  const name = textAt(object, "metadata.name") ?? "";
  const refuse = (details: string): never => {
    throw invalid(kind, name, details);
  };
  checkMetadata(kind, object, name, refuse);
  const workload = workloadOf({ key: "", group: kind.group, kind: kind.kind, namespace: "", name, object });
  if (workload && kind.kind !== "ScaledJob") checkPod(workload.spec, podPath(kind.kind), refuse);
  CHECKS[kind.kind]?.(object, refuse);
}

type Refuse = (details: string) => never;

function podPath(kind: string): string {
  if (kind === "Pod") return "spec";
  return kind === "CronJob" ? "spec.jobTemplate.spec.template.spec" : "spec.template.spec";
}

function checkMetadata(kind: Kind, object: Properties, name: string, refuse: Refuse): void {
  const rule = NAMES[kind.kind] ?? SUBDOMAIN;
  if (!rule.pattern.test(name)) refuse(`metadata.name: Invalid value: ${JSON.stringify(name)}: ${rule.sentence}`);
  for (const [key, value] of Object.entries(objectAt(object, "metadata.labels"))) {
    checkQualifiedKey(key, "metadata.labels", refuse);
    if (
      typeof value !== "string" ||
      value.length > 63 ||
      !/^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$/.test(value)
    ) {
      refuse(
        `metadata.labels: Invalid value: ${JSON.stringify(value)}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
      );
    }
  }
  for (const key of Object.keys(objectAt(object, "metadata.annotations")))
    checkQualifiedKey(key, "metadata.annotations", refuse);
}

function checkQualifiedKey(key: string, path: string, refuse: Refuse): void {
  const [prefix, ...rest] = key.includes("/") ? key.split("/") : [undefined, key];
  const name = rest.join("/");
  const good =
    /^(?=.{1,63}$)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/.test(name) &&
    (prefix === undefined || SUBDOMAIN.pattern.test(prefix));
  if (!good) {
    refuse(
      `${path}: Invalid value: ${JSON.stringify(key)}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
    );
  }
}

function checkPod(spec: Properties, path: string, refuse: Refuse): void {
  const volumes = new Set(objectsAt(spec, "volumes").map((volume) => volume.name));
  if (volumes.size < objectsAt(spec, "volumes").length) refuse(`${path}.volumes: Duplicate value`);
  const names = new Set<unknown>();
  containersOf(spec).forEach((container) => {
    const init = objectsAt(spec, "initContainers").includes(container);
    const list = init ? "initContainers" : "containers";
    const where = `${path}.${list}[${objectsAt(spec, list).indexOf(container)}]`;
    if (names.has(container.name)) refuse(`${where}.name: Duplicate value: ${JSON.stringify(container.name)}`);
    names.add(container.name);
    if (!LABEL.pattern.test(String(container.name)))
      refuse(`${where}.name: Invalid value: ${JSON.stringify(container.name)}: ${LABEL.sentence}`);
    if (textAt(container, "image") === undefined) refuse(`${where}.image: Required value`);
    for (const [i, mount] of objectsAt(container, "volumeMounts").entries()) {
      if (!volumes.has(mount.name))
        refuse(`${where}.volumeMounts[${i}].name: Not found: ${JSON.stringify(mount.name)}`);
    }
    const ports = objectsAt(container, "ports");
    const portNames = ports.map((port) => port.name).filter((port) => port !== undefined);
    for (const [i, port] of ports.entries()) {
      const number = numberAt(port, "containerPort") ?? 0;
      if (number < 1 || number > 65_535)
        refuse(`${where}.ports[${i}].containerPort: Invalid value: ${number}: must be between 1 and 65535, inclusive`);
      if (port.name !== undefined && !/^(?=.{1,15}$)(?=.*[a-z])[a-z0-9](-?[a-z0-9])*$/.test(String(port.name))) {
        refuse(
          `${where}.ports[${i}].name: Invalid value: ${JSON.stringify(port.name)}: must be no more than 15 characters, lower case alphanumeric or '-', with at least one letter`,
        );
      }
    }
    const twice = portNames.find((port, i) => portNames.indexOf(port) !== i);
    if (twice !== undefined) refuse(`${where}.ports: Duplicate value: ${JSON.stringify(twice)}`);
    checkResources(container, where, refuse);
  });
}

function checkResources(container: Properties, where: string, refuse: Refuse): void {
  const limits = objectAt(container, "resources.limits");
  for (const [resource, request] of Object.entries(objectAt(container, "resources.requests"))) {
    const asked = quantity(request);
    const limit = quantity(limits[resource]);
    if (asked !== undefined && limit !== undefined && asked > limit) {
      refuse(
        `${where}.resources.requests: Invalid value: ${JSON.stringify(request)}: must be less than or equal to ${resource} limit of ${String(limits[resource])}`,
      );
    }
  }
}

const CHECKS: Readonly<Record<string, (object: Properties, refuse: Refuse) => void>> = {
  Deployment(object, refuse) {
    checkSelector(object, refuse);
    const surge = at(object, "spec.strategy.rollingUpdate.maxSurge");
    const unavailable = at(object, "spec.strategy.rollingUpdate.maxUnavailable");
    const zero = (value: unknown) => value === 0 || value === "0" || value === "0%";
    if (zero(surge) && zero(unavailable)) {
      refuse("spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0");
    }
    if (
      textAt(object, "spec.strategy.type") === "Recreate" &&
      at(object, "spec.strategy.rollingUpdate") !== undefined
    ) {
      refuse("spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'");
    }
  },
  StatefulSet: checkSelector,
  DaemonSet: checkSelector,

  Service(object, refuse) {
    const ports = objectsAt(object, "spec.ports");
    if (ports.length === 0 && at(object, "spec.type") !== "ExternalName" && at(object, "spec.clusterIP") !== "None") {
      refuse("spec.ports: Required value");
    }
    for (const [i, port] of ports.entries()) {
      if (ports.length > 1 && port.name === undefined) refuse(`spec.ports[${i}].name: Required value`);
      const number = numberAt(port, "port") ?? 0;
      if (number < 1 || number > 65_535)
        refuse(`spec.ports[${i}].port: Invalid value: ${number}: must be between 1 and 65535, inclusive`);
    }
    const names = ports.map((port) => port.name);
    const twice = names.find((name, i) => name !== undefined && names.indexOf(name) !== i);
    if (twice !== undefined) refuse(`spec.ports: Duplicate value: ${JSON.stringify(twice)}`);
  },

  PodDisruptionBudget(object, refuse) {
    if (at(object, "spec.minAvailable") !== undefined && at(object, "spec.maxUnavailable") !== undefined) {
      refuse("spec: Invalid value: minAvailable and maxUnavailable cannot be both set");
    }
  },

  HorizontalPodAutoscaler(object, refuse) {
    const max = numberAt(object, "spec.maxReplicas") ?? 0;
    if (max < (numberAt(object, "spec.minReplicas") ?? 1)) {
      refuse(`spec.maxReplicas: Invalid value: ${max}: must be greater than or equal to \`minReplicas\``);
    }
  },

  PersistentVolumeClaim(object, refuse) {
    if (listAt(object, "spec.accessModes").length === 0)
      refuse("spec.accessModes: Required value: at least 1 access mode is required");
    if (at(object, "spec.resources.requests.storage") === undefined) refuse("spec.resources[storage]: Required value");
  },

  PersistentVolume(object, refuse) {
    if (listAt(object, "spec.accessModes").length === 0)
      refuse("spec.accessModes: Required value: at least 1 access mode is required");
    if (at(object, "spec.capacity.storage") === undefined) refuse("spec.capacity: Required value");
    const sources = Object.keys(objectAt(object, "spec")).filter((key) =>
      ["csi", "nfs", "local", "hostPath", "azureFile", "azureDisk"].includes(key),
    );
    if (sources.length === 0) refuse("spec: Required value: must specify a volume type");
  },

  Secret(object, refuse) {
    for (const key of [...Object.keys(objectAt(object, "data")), ...Object.keys(objectAt(object, "stringData"))]) {
      if (!/^[-._a-zA-Z0-9]{1,253}$/.test(key)) {
        refuse(
          `data[${key}]: Invalid value: ${JSON.stringify(key)}: a valid config key must consist of alphanumeric characters, '-', '_' or '.'`,
        );
      }
    }
  },

  ConfigMap(object, refuse) {
    for (const [key, value] of Object.entries(objectAt(object, "data"))) {
      if (!/^[-._a-zA-Z0-9]{1,253}$/.test(key)) {
        refuse(
          `data[${key}]: Invalid value: ${JSON.stringify(key)}: a valid config key must consist of alphanumeric characters, '-', '_' or '.'`,
        );
      }
      // etcd: a request holds up to 1.5 MiB, and the API server allows a ConfigMap 1 MiB.
      if (typeof value === "string" && Buffer.byteLength(value) > 1024 * 1024)
        refuse("Too long: may not be more than 1048576 bytes");
    }
  },

  NetworkPolicy(object, refuse) {
    for (const direction of ["ingress", "egress"] as const) {
      const peerKey = direction === "ingress" ? "from" : "to";
      for (const [i, rule] of objectsAt(object, `spec.${direction}`).entries()) {
        for (const [j, peer] of objectsAt(rule, peerKey).entries()) {
          const where = `spec.${direction}[${i}].${peerKey}[${j}]`;
          if (Object.keys(peer).length === 0) refuse(`${where}: Required value: must specify a peer`);
          if (peer.ipBlock !== undefined && (peer.podSelector !== undefined || peer.namespaceSelector !== undefined)) {
            refuse(`${where}: Forbidden: may not specify both ipBlock and another peer`);
          }
        }
      }
    }
  },

  Gateway(object, refuse) {
    const seen = new Set<unknown>();
    for (const [i, listener] of objectsAt(object, "spec.listeners").entries()) {
      if (seen.has(listener.name))
        refuse(
          `spec.listeners: Invalid value: Listener name must be unique within the Gateway: ${JSON.stringify(listener.name)}`,
        );
      seen.add(listener.name);
      if (["HTTP", "TCP", "UDP"].includes(String(listener.protocol)) && listener.tls !== undefined) {
        refuse("spec.listeners: Invalid value: tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']");
      }
      if (
        listener.protocol === "HTTPS" &&
        listAt(listener, "tls.certificateRefs").length === 0 &&
        !isProperties(at(listener, "tls.options"))
      ) {
        refuse(
          `spec.listeners[${i}].tls: Invalid value: certificateRefs or options must be specified when mode is Terminate`,
        );
      }
    }
  },

  HTTPRoute(object, refuse) {
    for (const [i, rule] of objectsAt(object, "spec.rules").entries()) {
      const redirects = objectsAt(rule, "filters").some((filter) => filter.type === "RequestRedirect");
      if (redirects && listAt(rule, "backendRefs").length > 0) {
        refuse(`spec.rules[${i}]: Invalid value: RequestRedirect filter must not be used together with backendRefs`);
      }
    }
  },

  PriorityClass(object, refuse) {
    // Above it are the cluster's own.
    const value = numberAt(object, "value");
    if (value === undefined) refuse("value: Required value");
    if ((value ?? 0) > 1_000_000_000)
      refuse(`value: Forbidden: maximum allowed value of a user defined priority is 1000000000`);
  },

  ResourceQuota(object, refuse) {
    const scoped = objectsAt(object, "spec.scopeSelector.matchExpressions").length > 0;
    for (const [key, hard] of Object.entries(objectAt(object, "spec.hard"))) {
      if (quantity(hard) === undefined) refuse(`spec.hard[${key}]: Invalid value: ${JSON.stringify(hard)}`);
      if (scoped && !/^(pods|cpu|memory|(requests|limits)\.(cpu|memory))$/.test(key)) {
        refuse(`spec.scopeSelector: Invalid value: unsupported scope applied to resource ${key}`);
      }
    }
  },

  LimitRange(object, refuse) {
    for (const [i, item] of objectsAt(object, "spec.limits").entries()) {
      for (const resource of Object.keys(objectAt(item, "max"))) {
        const order = ["min", "defaultRequest", "default", "max"].map((part) => at(item, `${part}.${resource}`));
        const given = order.filter((value) => value !== undefined).map((value) => quantity(value) ?? 0);
        if (given.some((value, n) => value < (given[n - 1] ?? 0))) {
          refuse(
            `spec.limits[${i}].max[${resource}]: Invalid value: min, defaultRequest, default and max must not fall`,
          );
        }
      }
    }
  },

  ScaledObject(object, refuse) {
    const min = numberAt(object, "spec.minReplicaCount") ?? 0;
    const max = numberAt(object, "spec.maxReplicaCount") ?? 100;
    const name = String(at(object, "metadata.name"));
    const webhook = (sentence: string): never => {
      throw kubernetesError("Forbidden", `admission webhook "vscaledobject.kb.io" denied the request: ${sentence}`);
    };
    if (min > max) webhook(`MinReplicaCount=${min} must be less than or equal to MaxReplicaCount=${max}`);
    const triggers = objectsAt(object, "spec.triggers");
    if (triggers.length === 0)
      refuse("spec.triggers: Required value: no triggers defined in the ScaledObject/ScaledJob");
    const resource = (trigger: Properties) => trigger.type === "cpu" || trigger.type === "memory";
    if (min === 0 && triggers.every(resource)) {
      webhook(
        `scaledobject '${name}' has only cpu/memory triggers AND minReplica is 0, which is not supported; use minReplica of at least 1`,
      );
    }
    for (const trigger of triggers) {
      for (const [key, value] of Object.entries(objectAt(trigger, "metadata"))) {
        if (typeof value !== "string")
          refuse(`spec.triggers.metadata.${key}: Invalid value: ${JSON.stringify(value)}: must be of type string`);
      }
      const missing = (TRIGGER_METADATA[String(trigger.type)] ?? []).find(
        (key) => textAt(trigger, `metadata.${key}`) === undefined,
      );
      if (trigger.type === "azure-servicebus") checkServiceBusTrigger(trigger, webhook);
      if (missing !== undefined)
        webhook(`error parsing ${String(trigger.type)} metadata: missing required parameter "${missing}"`);
    }
  },
};

/** Required metadata of the scalers in use; source: KEDA 2.20 documentation, "Scalers". */
const TRIGGER_METADATA: Readonly<Record<string, readonly string[]>> = {
  cpu: ["value"],
  memory: ["value"],
  prometheus: ["serverAddress", "query", "threshold"],
};

/** KEDA 2.20, pkg/scalers/azure_servicebus_scaler.go. */
function checkServiceBusTrigger(trigger: Properties, webhook: (sentence: string) => never): void {
  const has = (key: string) => textAt(trigger, `metadata.${key}`) !== undefined;
  const wrong = (why: string) => webhook(`error parsing azure service bus metadata: ${why}`);
  if (has("queueName") === has("topicName")) wrong("give either queueName or topicName with subscriptionName");
  if (has("topicName") && !has("subscriptionName")) wrong("no subscription name provided");
  const byConnection = has("connectionFromEnv");
  if (!byConnection && textAt(trigger, "authenticationRef.name") === undefined) wrong("no connection setting given");
  if (!byConnection && !has("namespace")) wrong("namespace is required when using pod identity");
  const count = textAt(trigger, "metadata.messageCount");
  if (count !== undefined && !/^[1-9]\d*$/.test(count)) wrong(`messageCount ${JSON.stringify(count)} is no number`);
}

function checkSelector(object: Properties, refuse: Refuse): void {
  const labels = textMapAt(object, "spec.template.metadata.labels");
  if (!selects(at(object, "spec.selector"), labels)) {
    refuse(
      `spec.template.metadata.labels: Invalid value: ${JSON.stringify(labels)}: \`selector\` does not match template \`labels\``,
    );
  }
}
