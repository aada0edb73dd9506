/** The label that every namespace carries by itself, for selectors. */
export const NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name";

/** Pods as a NetworkPolicy names them from elsewhere. */
export interface PodsElsewhere {
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** A NetworkPolicy peer: both selectors in one entry, so that both must match. */
export function peer({ namespace, labels }: PodsElsewhere) {
  return {
    namespaceSelector: { matchLabels: { [NAMESPACE_NAME_LABEL]: namespace } },
    podSelector: { matchLabels: { ...labels } },
  };
}
