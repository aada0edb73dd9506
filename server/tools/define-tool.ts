import type { CallToolResult, Icon, ResourceLink } from "@modelcontextprotocol/server";
import type { FastifyBaseLogger } from "fastify";
import { z } from "zod";
import { ROLES, type Role } from "../config.ts";
import type { CommandRunner } from "../services/commands.ts";
import type { Jobs } from "../services/jobs/jobs.ts";
import type { Runtime } from "../services/runtime.ts";
import type { Workspace } from "../services/workspace.ts";
import type { Workspaces } from "../services/workspaces.ts";
import type { ClientChannel } from "./client-channel.ts";

/** Who calls, as far as the server knows. */
export interface Caller {
  /**
   * Stable name of the caller: `local`, `anonymous`, `key:` and the key's name, which it keeps when it is rotated (the
   * deployment's own: its id), or the object id of an Entra principal.
   */
  readonly subject: string;
  /** How the caller proved it. */
  readonly method: "local" | "none" | "api-key" | "entra";
  /** Entra tenant of the subject, where there is one. */
  readonly tenant?: string;
  /** What the caller may do, and whose limits hold for it. */
  readonly role: Role;
  /** What the scopes of a delegated token leave of the role, until the client asks for more; absent: all of it. */
  readonly scopedRole?: Role;
  /** First 8 hex digits of the SHA-256 of the caller's key: enough to name it, too little to guess it. */
  readonly keyId?: string;
  /** Id of the application that an Entra token was issued to. */
  readonly client?: string;
}

/** The role that a call is made with: the caller's own, within what the scopes of its token leave of it. */
export function effectiveRole({ role, scopedRole }: Caller): Role {
  return scopedRole === undefined || ROLES.indexOf(scopedRole) >= ROLES.indexOf(role) ? role : scopedRole;
}

/**
 * Tells callers apart, in memory and in stores that callers share: the same person in two tenants is two callers.
 * Nothing of it may be shown; see `workspaceName` for a name that says nothing.
 */
export function callerKey(caller: Caller): string {
  const known = keys.get(caller);
  if (known !== undefined) return known;
  const { subject, tenant, method } = caller;
  // Keys and tokens of one subject are different callers, tokens of one subject and tenant the same.
  const key = JSON.stringify(tenant === undefined ? [method, subject] : ["tenant", tenant.toLowerCase(), subject]);
  keys.set(caller, key);
  return key;
}

/** Callers are the same objects call after call. */
const keys = new WeakMap<Caller, string>();

/**
 * What of a call rules of access go by and an audit may show, by name: a value, or several that all count. Never a
 * secret, and never content.
 */
export type Facet = string | readonly string[] | UnknownFacet;
export type Facets = Readonly<Record<string, Facet | undefined>>;

/** Nobody can tell the facet before the call has run; a rule that goes by it refuses, with `unknown` as the reason. */
export interface UnknownFacet {
  /** Ends a sentence, and says what to do instead. */
  readonly unknown: string;
}

export function isUnknown(facet: Facet | undefined): facet is UnknownFacet {
  return typeof facet === "object" && "unknown" in facet;
}

/** What facets may depend on beside the input. */
export interface FacetContext {
  /** Whether command lines are a shell's. */
  readonly shell: boolean;
}

/** What tools stand on; made once a process. */
export interface Services {
  readonly workspaces: Workspaces;
  readonly commands: CommandRunner;
  readonly runtime: Runtime;
  readonly jobs: Jobs;
  /** Bytes of a tool's result in one answer. */
  readonly resultLimit: number;
}

/** What one request gets beside its parameters, whatever it asks for. */
export interface CallContext extends Omit<Services, "workspaces"> {
  readonly caller: Caller;
  /** The caller's own. */
  readonly workspace: Workspace;
  /** Aborts when the caller cancels or goes away. */
  readonly signal: AbortSignal;
  /** W3C trace id of the request, where it came with one. */
  readonly traceId?: string | undefined;
  readonly log: FastifyBaseLogger;
}

/** A run of a job. The two together name it for good, for other services to know it again by. */
export interface JobRun {
  readonly jobId: string;
  /** 1 for the first. */
  readonly attempt: number;
}

/** What one call of a tool gets beside its input. */
export interface ToolContext extends CallContext {
  readonly client: ClientChannel;
  /** The job that the call is a run of, where it is one. */
  readonly run?: JobRun | undefined;
}

/** The protocol's hints to clients (MCP specification, Tools, "Annotations"). Hints: nothing here is enforced. */
export interface ToolAnnotations {
  readonly readOnlyHint: boolean;
  readonly destructiveHint: boolean;
  readonly idempotentHint: boolean;
  readonly openWorldHint: boolean;
}

type JsonObject = Record<string, unknown>;

/** A tool as the list of tools shows it. */
export interface ToolListing {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly inputSchema: JsonObject & { type: "object" };
  readonly outputSchema?: JsonObject & { type: "object" };
  readonly annotations: ToolAnnotations;
  readonly icons?: Icon[];
}

/** What a call gives back: for models and people in `content`, for programs in `structuredContent`. */
export type ToolResult = Pick<CallToolResult, "content" | "structuredContent" | "isError">;

/** A tool as the protocol side uses it: its schemas already compiled, its types already closed over. */
export interface Tool {
  readonly name: string;
  /** Without it, there is no such tool for a caller. */
  readonly role: Role;
  readonly listing: ToolListing;
  /** Whether it may run as a job: see `submit_job`. */
  readonly job?: boolean;
  /** What is wrong with `args`, in the words of a call's refusal; undefined when nothing is. */
  faultsIn?(args: unknown): string | undefined;
  /** The call that this one asks to be made later. Whoever may not make that one may not make this one. */
  asksFor?(args: unknown): { readonly tool: string; readonly args: unknown } | undefined;
  /** The role that these arguments need, where some need more than others; undefined when they are none of the tool's. */
  roleFor?(args: unknown): Role | undefined;
  readonly facetNames?: readonly string[];
  /** The call's facets; undefined when the arguments are none of the tool's. */
  facets?(args: unknown, context: FacetContext): Facets | undefined;
  /**
   * Checks `args`, runs, and puts the outcome into the protocol's form. Throws {@link ToolFailure} for what the caller
   * can mend, and {@link InputNeeded}; anything else that it throws is a fault of the tool.
   */
  respond(args: unknown, context: ToolContext): Promise<ToolResult>;
}

/** A tool of {@link defineTool}'s making. */
export interface DefinedTool extends Tool {
  /** What {@link Tool.respond} does, without the protocol's form. */
  call(args: unknown, context: ToolContext): Promise<JsonObject>;
}

interface ToolDefinition<Input extends z.ZodObject, Output extends z.ZodObject> {
  name: string;
  title: string;
  /** What a model needs to choose the tool well and to use it right. */
  description: string;
  input: Input;
  output: Output;
  annotations: ToolAnnotations;
  /** Shown beside the tool by clients that show such things. */
  icons?: Icon[];
  /**
   * `true`: it may run as a job, without its caller, for as long as a job may take. It then asks its user nothing, reports
   * how far it is by `client.progress`, ends when `signal` aborts, and hands `run` on to services that know calls again.
   */
  job?: boolean;
  /** What a caller must be to know of the tool: `reader` looks, `operator` changes, `admin` governs. */
  role: Role;
  /** Where some input needs more than `role`: the role that this one needs. */
  roleFor?(input: z.output<Input>): Role;
  /** What of the input rules of access may go by, and an audit may show. */
  facets?: Readonly<Record<string, (input: z.output<Input>, context: FacetContext) => Facet | undefined>>;
  /** See {@link Tool.asksFor}. */
  asksFor?(input: z.output<Input>): { readonly tool: string; readonly args: unknown };
  /** Resources that an output speaks of, for clients that follow links. */
  links?(output: z.output<Output>): readonly ResourceLink[];
  run(input: z.output<Input>, context: ToolContext): Promise<z.input<Output>> | z.input<Output>;
}

/**
 * A failure that the caller can mend. The message goes to the caller as it is: one or two sentences that name the
 * value and the mend, and no path outside the workspace. `output`, where there is some, goes along.
 */
export class ToolFailure extends Error {
  override readonly name = "ToolFailure";
  readonly output: JsonObject | undefined;

  constructor(message: string, output?: JsonObject) {
    super(message);
    this.output = output;
  }
}

/** A failure of the moment: nothing was done, and the same call may well be carried out in a while. */
export class ToolBusy extends ToolFailure {}

/** Makes a tool of its definition. The JSON Schemas are made here, once, and never during a request. */
export function defineTool<Input extends z.ZodObject, Output extends z.ZodObject>(
  definition: ToolDefinition<Input, Output>,
): DefinedTool {
  const { name, title, description, annotations, icons, role, roleFor, job, asksFor, output, links, run } = definition;
  // Unknown arguments are refused: a misspelt `timout` that is dropped in silence runs with the wrong limit.
  const input = definition.input.strict();
  const listing: ToolListing = Object.freeze({
    name,
    title,
    description,
    inputSchema: jsonSchema(input, "input"),
    outputSchema: jsonSchema(output, "output"),
    annotations,
    ...(icons && { icons }),
  });
  const known = Object.keys(input.shape);
  const facets = Object.entries(definition.facets ?? {});
  /** Arguments that were looked at before the call, which need no second look. */
  const looked = new WeakMap<object, z.ZodSafeParseResult<z.output<typeof input>>>();
  const look = (args: unknown): z.output<Input> | undefined => {
    let parsed = typeof args === "object" && args !== null ? looked.get(args) : undefined;
    if (parsed === undefined) {
      parsed = input.safeParse(args ?? {});
      if (typeof args === "object" && args !== null) looked.set(args, parsed);
    }
    return parsed.success ? (parsed.data as z.output<Input>) : undefined;
  };
  const take = (args: unknown) => {
    const parsed = typeof args === "object" && args !== null ? looked.get(args) : undefined;
    // What one run may have changed is no other's.
    if (parsed !== undefined) looked.delete(args as object);
    return parsed ?? input.safeParse(args ?? {});
  };
  const call = async (args: unknown, context: ToolContext): Promise<z.output<Output>> => {
    const parsed = take(args);
    if (!parsed.success) throw new ToolFailure(describeIssues(name, known, args, parsed.error.issues));
    const result = output.safeParse(await run(parsed.data as z.output<Input>, context));
    if (!result.success) {
      throw new Error(`${name} returned what its output schema does not allow: ${z.prettifyError(result.error)}`);
    }
    return result.data;
  };
  return {
    name,
    role,
    listing,
    ...(job && { job }),
    faultsIn(args) {
      look(args);
      const parsed = typeof args === "object" && args !== null ? looked.get(args) : input.safeParse(args ?? {});
      return parsed?.success === false ? describeIssues(name, known, args, parsed.error.issues) : undefined;
    },
    ...(asksFor && {
      asksFor: (args: unknown) => {
        const input = look(args);
        return input && asksFor(input);
      },
    }),
    ...(roleFor && {
      roleFor: (args: unknown) => {
        const input = look(args);
        return input && roleFor(input);
      },
    }),
    facetNames: facets.map(([name]) => name),
    facets(args, context) {
      const input = look(args);
      return input && Object.fromEntries(facets.map(([name, of]) => [name, of(input, context)]));
    },
    call,
    async respond(args, context) {
      const output = await call(args, context);
      const text = { type: "text" as const, text: JSON.stringify(output) };
      return { content: links === undefined ? [text] : [text, ...links(output)], structuredContent: output };
    },
  };
}

function jsonSchema(schema: z.ZodObject, io: "input" | "output"): JsonObject & { type: "object" } {
  return { ...z.toJSONSchema(schema, { io, target: "draft-2020-12" }), type: "object" };
}

/** One sentence for each thing wrong with the arguments, naming the argument, its value and what is expected. */
function describeIssues(tool: string, known: readonly string[], args: unknown, issues: readonly z.core.$ZodIssue[]) {
  const sentences = issues.map((issue) => {
    if (issue.code === "unrecognized_keys") {
      const names = issue.keys.map((key) => JSON.stringify(key)).join(", ");
      const takes = known.length === 0 ? "no arguments" : known.join(", ");
      return `Unknown argument ${names}; ${tool} takes ${takes}.`;
    }
    const argument = issue.path.map(String).join(".");
    if (argument === "") return `The arguments must be one JSON object: ${issue.message}.`;
    const value = valueAt(args, issue.path);
    if (value === undefined) return `Argument ${JSON.stringify(argument)} is missing: ${issue.message}.`;
    return `Argument ${JSON.stringify(argument)} is ${brief(value)}: ${issue.message}.`;
  });
  return `${tool} was not run. ${sentences.join(" ")}`;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let at = value;
  for (const key of path) {
    if (typeof at !== "object" || at === null) return undefined;
    at = Reflect.get(at, key);
  }
  return at;
}

function brief(value: unknown): string {
  const json = JSON.stringify(value) ?? typeof value;
  return json.length > 80 ? `${json.slice(0, 77)}...` : json;
}
