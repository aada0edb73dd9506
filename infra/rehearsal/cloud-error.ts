/** What a cloud answers when it refuses a request: Azure's code and sentence, or Kubernetes' reason and sentence. */
export class CloudError extends Error {
  /** Azure's error code (`ResourceNotFound`) or Kubernetes' reason (`AlreadyExists`). */
  readonly code: string;
  readonly status: number;

  constructor(code: string, message: string, status: number) {
    super(message);
    this.name = "CloudError";
    this.code = code;
    this.status = status;
  }
}

/** A refusal as the Azure provider prints it: `<code>: <sentence>`. */
export function azureError(code: string, sentence: string, status = 400): CloudError {
  return new CloudError(code, `${code}: ${sentence}`, status);
}

/** A refusal as the API server words it; the reason is not part of the sentence. */
export function kubernetesError(reason: KubernetesReason, sentence: string): CloudError {
  return new CloudError(reason, sentence, STATUS[reason]);
}

const STATUS = { BadRequest: 400, Forbidden: 403, NotFound: 404, AlreadyExists: 409, Invalid: 422 } as const;
export type KubernetesReason = keyof typeof STATUS;

/** Something that would go wrong on the real clouds. */
export interface Fault {
  /** The resource's name in the program, or the object's (`Deployment mcp-system/mcp-server`). */
  readonly name: string;
  /** The resource's URN or id, where it has one. */
  readonly resource?: string;
  readonly message: string;
}
