import { z } from "zod";

/** Kubernetes objects as the plan has them: what the rehearsal reads of each, the rest left alone. */

const Labels = z.record(z.string(), z.string());
const Metadata = z.looseObject({ name: z.string(), namespace: z.string().optional(), labels: Labels.optional() });
const PortRef = z.union([z.number().int(), z.string()]);

export const HttpProbe = z.looseObject({
  httpGet: z
    .looseObject({
      path: z.string().default("/"),
      port: PortRef,
      scheme: z.enum(["HTTP", "HTTPS"]).default("HTTP"),
      httpHeaders: z.array(z.object({ name: z.string(), value: z.string() })).default([]),
    })
    .optional(),
  tcpSocket: z.looseObject({ port: PortRef }).optional(),
  // Defaults: Kubernetes API reference, Probe v1 core.
  initialDelaySeconds: z.number().default(0),
  periodSeconds: z.number().default(10),
  timeoutSeconds: z.number().default(1),
  failureThreshold: z.number().default(3),
  successThreshold: z.number().default(1),
});
export type Probe = z.output<typeof HttpProbe>;

const KeyRef = z.looseObject({ name: z.string(), key: z.string(), optional: z.boolean().default(false) });
const EnvVar = z.looseObject({
  name: z.string(),
  value: z.string().optional(),
  valueFrom: z
    .looseObject({
      configMapKeyRef: KeyRef.optional(),
      secretKeyRef: KeyRef.optional(),
      fieldRef: z.looseObject({ fieldPath: z.string() }).optional(),
      resourceFieldRef: z.looseObject({ resource: z.string(), divisor: z.string().optional() }).optional(),
    })
    .optional(),
});
const SourceRef = z.looseObject({ name: z.string(), optional: z.boolean().default(false) });
const EnvFrom = z.looseObject({
  prefix: z.string().default(""),
  configMapRef: SourceRef.optional(),
  secretRef: SourceRef.optional(),
});

export const Container = z.looseObject({
  name: z.string(),
  image: z.string(),
  command: z.array(z.string()).optional(),
  args: z.array(z.string()).optional(),
  workingDir: z.string().optional(),
  env: z.array(EnvVar).default([]),
  envFrom: z.array(EnvFrom).default([]),
  ports: z
    .array(
      z.looseObject({ name: z.string().optional(), containerPort: z.number().int(), protocol: z.string().optional() }),
    )
    .default([]),
  volumeMounts: z
    .array(
      z.looseObject({
        name: z.string(),
        mountPath: z.string(),
        subPath: z.string().optional(),
        readOnly: z.boolean().default(false),
      }),
    )
    .default([]),
  startupProbe: HttpProbe.optional(),
  readinessProbe: HttpProbe.optional(),
  livenessProbe: HttpProbe.optional(),
  resources: z
    .looseObject({
      requests: z.record(z.string(), z.string()).optional(),
      limits: z.record(z.string(), z.string()).optional(),
    })
    .optional(),
  securityContext: z.looseObject({ runAsUser: z.number().optional(), runAsGroup: z.number().optional() }).optional(),
});
export type Container = z.output<typeof Container>;

export const PodTemplate = z.looseObject({
  metadata: z.looseObject({ labels: Labels.default({}), annotations: Labels.optional() }),
  spec: z.looseObject({
    containers: z.array(Container).min(1),
    serviceAccountName: z.string().optional(),
    terminationGracePeriodSeconds: z.number().default(30),
    securityContext: z.looseObject({ runAsUser: z.number().optional(), runAsGroup: z.number().optional() }).optional(),
    volumes: z
      .array(
        z.looseObject({
          name: z.string(),
          persistentVolumeClaim: z.looseObject({ claimName: z.string() }).optional(),
        }),
      )
      .default([]),
  }),
});

export const Deployment = z.looseObject({
  kind: z.literal("Deployment"),
  metadata: Metadata,
  spec: z.looseObject({ template: PodTemplate }),
});
export type Deployment = z.output<typeof Deployment>;

export const Service = z.looseObject({
  kind: z.literal("Service"),
  metadata: Metadata,
  spec: z.looseObject({
    selector: Labels.optional(),
    ports: z.array(z.looseObject({ name: z.string().optional(), port: z.number(), targetPort: PortRef.optional() })),
  }),
});
export type Service = z.output<typeof Service>;

export const HttpRoute = z.looseObject({
  kind: z.literal("HTTPRoute"),
  metadata: Metadata,
  spec: z.looseObject({
    rules: z
      .array(
        z.looseObject({
          backendRefs: z
            .array(
              z.looseObject({
                name: z.string(),
                namespace: z.string().optional(),
                kind: z.string().default("Service"),
                port: z.number().optional(),
              }),
            )
            .default([]),
        }),
      )
      .default([]),
  }),
});

export const ConfigMap = z.looseObject({
  kind: z.literal("ConfigMap"),
  metadata: Metadata,
  data: z.record(z.string(), z.string()).default({}),
});

export const Secret = z.looseObject({
  kind: z.literal("Secret"),
  metadata: Metadata,
  stringData: z.record(z.string(), z.string()).default({}),
  data: z.record(z.string(), z.string()).default({}),
});

/** An object as the program gives it to the cluster. */
export type Manifest = Readonly<Record<string, unknown>>;

/** The objects of one kind. An object that is not shaped as its kind should be is the plan's fault to report. */
export function objectsOf<T extends z.ZodType>(kind: T, manifests: readonly Manifest[]): z.output<T>[] {
  return manifests.flatMap((manifest) => {
    const parsed = kind.safeParse(manifest);
    return parsed.success ? [parsed.data] : [];
  });
}

/** A Secret's values, whichever way they are written. */
export function secretValues({ data, stringData }: z.output<typeof Secret>): Record<string, string> {
  const decoded = Object.entries(data).map(([key, value]) => [key, Buffer.from(value, "base64").toString("utf8")]);
  return { ...Object.fromEntries(decoded), ...stringData };
}
