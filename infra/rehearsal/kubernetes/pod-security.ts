import { at, isProperties, listAt, objectAt, objectsAt, type Properties, textAt, textsAt } from "../values.ts";

/**
 * Checks a pod against Pod Security Standards "restricted" (Kubernetes documentation, "Pod Security Standards").
 *
 * @returns the violations in the admission controller's words; empty when the pod is let in.
 */
export function restrictedViolations(spec: Properties): string[] {
  const containers = [
    ...objectsAt(spec, "initContainers"),
    ...objectsAt(spec, "containers"),
    ...objectsAt(spec, "ephemeralContainers"),
  ];
  const which = (bad: readonly Properties[]) =>
    `container${bad.length > 1 ? "s" : ""} ${bad.map((c) => `"${String(c.name)}"`).join(", ")}`;
  const violations: string[] = [];

  const host = ["hostNetwork", "hostPID", "hostIPC"].filter((key) => spec[key] === true);
  if (host.length > 0) violations.push(`host namespaces (${host.map((key) => `${key}=true`).join(", ")})`);

  const privileged = containers.filter((c) => at(c, "securityContext.privileged") === true);
  if (privileged.length > 0)
    violations.push(`privileged (${which(privileged)} must not set securityContext.privileged=true)`);

  const hostPorts = containers.filter((c) =>
    objectsAt(c, "ports").some((p) => typeof p.hostPort === "number" && p.hostPort > 0),
  );
  if (hostPorts.length > 0) violations.push(`hostPort (${which(hostPorts)} uses hostPorts)`);

  const escalating = containers.filter((c) => at(c, "securityContext.allowPrivilegeEscalation") !== false);
  if (escalating.length > 0) {
    violations.push(
      `allowPrivilegeEscalation != false (${which(escalating)} must set securityContext.allowPrivilegeEscalation=false)`,
    );
  }

  const undropped = containers.filter((c) => !textsAt(c, "securityContext.capabilities.drop").includes("ALL"));
  const adding = containers.filter((c) =>
    textsAt(c, "securityContext.capabilities.add").some((cap) => cap !== "NET_BIND_SERVICE"),
  );
  if (undropped.length > 0) {
    violations.push(
      `unrestricted capabilities (${which(undropped)} must set securityContext.capabilities.drop=["ALL"])`,
    );
  } else if (adding.length > 0) {
    violations.push(
      `unrestricted capabilities (${which(adding)} must not include more than NET_BIND_SERVICE in securityContext.capabilities.add)`,
    );
  }

  const allowed = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
  ];
  for (const volume of objectsAt(spec, "volumes")) {
    const type = Object.keys(volume).find((key) => key !== "name" && isProperties(volume[key]));
    if (type !== undefined && !allowed.includes(type)) {
      violations.push(
        `restricted volume types (volume "${String(volume.name)}" uses restricted volume type "${type}")`,
      );
    }
  }

  const podNonRoot = at(spec, "securityContext.runAsNonRoot") === true;
  const root = containers.filter((c) => {
    const own = at(c, "securityContext.runAsNonRoot");
    return own === undefined ? !podNonRoot : own !== true;
  });
  if (root.length > 0) {
    violations.push(
      `runAsNonRoot != true (${podNonRoot ? "" : "pod or "}${which(root)} must set securityContext.runAsNonRoot=true)`,
    );
  }
  if (at(spec, "securityContext.runAsUser") === 0) violations.push("runAsUser=0 (pod must not set runAsUser=0)");
  const uidZero = containers.filter((c) => at(c, "securityContext.runAsUser") === 0);
  if (uidZero.length > 0) violations.push(`runAsUser=0 (${which(uidZero)} must not set runAsUser=0)`);

  const fine = (context: Properties) =>
    ["RuntimeDefault", "Localhost"].includes(textAt(context, "seccompProfile.type") ?? "");
  const podSeccomp = fine(objectAt(spec, "securityContext"));
  const unconfined = containers.filter((c) => {
    const own = objectAt(c, "securityContext");
    return own.seccompProfile === undefined ? !podSeccomp : !fine(own);
  });
  if (unconfined.length > 0) {
    violations.push(
      `seccompProfile (${podSeccomp ? "" : "pod or "}${which(unconfined)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")`,
    );
  }
  if (listAt(spec, "securityContext.sysctls").length > 0)
    violations.push("forbidden sysctls (pod must not set sysctls)");
  return violations;
}
