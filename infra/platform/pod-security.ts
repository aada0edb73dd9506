/** Kubernetes, "Pod Security Standards". */
export type PodSecurity = "privileged" | "baseline" | "restricted";

/** Labels by which a namespace refuses pods that fall short of `level`, and warns and logs on the way. */
export function podSecurity(level: PodSecurity): Record<string, string> {
  return {
    "pod-security.kubernetes.io/enforce": level,
    "pod-security.kubernetes.io/warn": level,
    "pod-security.kubernetes.io/audit": level,
  };
}
