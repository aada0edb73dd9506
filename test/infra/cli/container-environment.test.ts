import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { containerEnvironment, expand } from "../../../infra/cli/container-environment.ts";
import { Deployment, type Manifest } from "../../../infra/cli/kubernetes-objects.ts";

const objects: Manifest[] = [
  { kind: "ConfigMap", metadata: { name: "settings", namespace: "ns" }, data: { A: "1", B: "config" } },
  { kind: "ConfigMap", metadata: { name: "settings", namespace: "elsewhere" }, data: { A: "other" } },
  {
    kind: "Secret",
    metadata: { name: "keys", namespace: "ns" },
    data: { B: Buffer.from("sécret").toString("base64") },
    stringData: { C: "plain" },
  },
];

function environment(container: Record<string, unknown>): Record<string, string> {
  const deployment = Deployment.parse({
    kind: "Deployment",
    metadata: { name: "web", namespace: "ns" },
    spec: {
      template: {
        metadata: { labels: { app: "web" } },
        spec: { serviceAccountName: "robot", containers: [{ name: "web", image: "i", ...container }] },
      },
    },
  });
  const [first] = deployment.spec.template.spec.containers;
  if (!first) throw new Error("there is a container");
  return containerEnvironment(first, deployment, objects);
}

describe("a container's environment, as the kubelet makes it", () => {
  test("sources come in order, the later ones win, and env wins over both", () => {
    const envFrom = [{ configMapRef: { name: "settings" } }, { secretRef: { name: "keys" } }];
    expect(environment({ envFrom })).toEqual({ A: "1", B: "sécret", C: "plain" });
    expect(environment({ envFrom: envFrom.toReversed() })).toEqual({ A: "1", B: "config", C: "plain" });
    expect(environment({ envFrom, env: [{ name: "A", value: "own" }] })).toMatchObject({ A: "own" });
  });

  test("prefixes, single keys, fields and resources", () => {
    expect(
      environment({
        envFrom: [{ prefix: "P_", configMapRef: { name: "settings" } }],
        resources: { limits: { cpu: "1500m", memory: "1Gi" } },
        env: [
          { name: "KEY", valueFrom: { secretKeyRef: { name: "keys", key: "C" } } },
          { name: "SETTING", valueFrom: { configMapKeyRef: { name: "settings", key: "A" } } },
          { name: "NAMESPACE", valueFrom: { fieldRef: { fieldPath: "metadata.namespace" } } },
          { name: "APP", valueFrom: { fieldRef: { fieldPath: "metadata.labels['app']" } } },
          { name: "ROBOT", valueFrom: { fieldRef: { fieldPath: "spec.serviceAccountName" } } },
          { name: "CPUS", valueFrom: { resourceFieldRef: { resource: "limits.cpu" } } },
          { name: "MIB", valueFrom: { resourceFieldRef: { resource: "limits.memory", divisor: "1Mi" } } },
        ],
      }),
    ).toEqual({
      P_A: "1",
      P_B: "config",
      KEY: "plain",
      SETTING: "1",
      NAMESPACE: "ns",
      APP: "web",
      ROBOT: "robot",
      CPUS: "2",
      MIB: "1024",
    });
  });

  test.each([
    [{ envFrom: [{ configMapRef: { name: "absent" } }] }, 'configmap "absent" not found'],
    [{ envFrom: [{ secretRef: { name: "absent" } }] }, 'secret "absent" not found'],
    [
      { env: [{ name: "X", valueFrom: { secretKeyRef: { name: "keys", key: "absent" } } }] },
      "couldn't find key absent in Secret ns/keys",
    ],
    [
      { env: [{ name: "X", valueFrom: { configMapKeyRef: { name: "settings", key: "absent" } } }] },
      "couldn't find key absent in ConfigMap ns/settings",
    ],
    [{ env: [{ name: "X", valueFrom: { fieldRef: { fieldPath: "status.phase" } } }] }, "status.phase"],
    [{ env: [{ name: "X", valueFrom: { resourceFieldRef: { resource: "limits.cpu" } } }] }, "sets no limits.cpu"],
  ])("%j stops the container, unless it is optional", (container, message) => {
    expect(() => environment(container)).toThrow(message);
  });

  test("optional references may lead nowhere", () => {
    expect(
      environment({
        envFrom: [{ configMapRef: { name: "absent", optional: true } }],
        env: [{ name: "X", valueFrom: { secretKeyRef: { name: "keys", key: "absent", optional: true } } }],
      }),
    ).toEqual({});
  });

  test("$(NAME) sees what came before it", () => {
    const env = [
      { name: "URL", value: "http://$(HOST):$(PORT)/$(A)" },
      { name: "PORT", value: "80" },
      { name: "HOST", value: "$$(A) $(PORT) $PORT $(" },
    ];
    expect(environment({ envFrom: [{ configMapRef: { name: "settings" } }], env })).toMatchObject({
      URL: "http://$(HOST):$(PORT)/1",
      HOST: "$(A) 80 $PORT $(",
    });
  });

  test("property: text without a dollar sign stays as it is, and a doubled one always comes out single", () => {
    fc.assert(
      fc.property(fc.string(), fc.dictionary(fc.string(), fc.string()), (text, variables) => {
        const plain = text.replaceAll("$", "");
        expect(expand(plain, variables)).toBe(plain);
        expect(
          expand(
            text.replaceAll("$", () => "$$"),
            variables,
          ),
        ).toBe(text);
      }),
    );
  });
});
