import { type JSONRPCRequest, type Result, Server, type ServerContext } from "@modelcontextprotocol/server";

/** Thrown by `tools/call` in place of a result: the call has become a task, and this is the answer. */
export class TaskCreated extends Error {
  override readonly name = "TaskCreated";
  readonly result: Result;

  constructor(result: Result) {
    super("The call has become a task.");
    this.result = result;
  }
}

type Handler = (request: JSONRPCRequest, context: ServerContext) => Promise<Result>;

/**
 * The SDK's server object, which knows of no tasks: it holds every result of `tools/call` to the schema of a tool's
 * result. What {@link TaskCreated} carries goes past that check, and nothing else does.
 */
export class TaskServer extends Server {
  protected override _wrapHandler(method: string, handler: Handler): Handler {
    const checked = super._wrapHandler(method, handler);
    if (method !== "tools/call") return checked;
    return (request, context) =>
      checked(request, context).catch((error: unknown) => {
        if (error instanceof TaskCreated) return error.result;
        throw error;
      });
  }
}
