/** A column of the table of the audit trail, and where in a line its value stands. */
export interface AuditColumn {
  readonly name: string;
  readonly type: "string" | "long" | "real" | "dynamic";
  /** Keys from the outside in; absent: the column is sent as it is. */
  readonly path?: readonly string[];
}

/**
 * What the server sends of a line: its time and its text (`Row` in server/observability/audit-sinks/ingestion.ts). The
 * rule takes everything else out of the text.
 */
export const SENT_COLUMNS = [
  { name: "TimeGenerated", type: "datetime" },
  { name: "Line", type: "string" },
] as const;

const column = (type: AuditColumn["type"], name: string, ...path: string[]): AuditColumn => ({ name, type, path });

/**
 * Every key that a line may have (server/observability/audit-chain.ts), but for `time`, which is TimeGenerated, and
 * `stream`, which is always "audit". Names keep clear of Log Analytics' own (TenantId, Type, Id, Title) and of words of
 * KQL.
 */
export const AUDIT_COLUMNS: readonly AuditColumn[] = [
  column("long", "SchemaVersion", "schema"),
  column("string", "Event", "event"),
  column("string", "Replica", "replica"),
  column("string", "TraceId", "traceId"),
  column("string", "Subject", "subject"),
  column("string", "Tenant", "tenant"),
  column("string", "AuthMethod", "method"),
  column("string", "Role", "role"),
  column("string", "ScopedRole", "scopedRole"),
  column("string", "KeyId", "keyId"),
  column("string", "ClientId", "client"),
  column("string", "Address", "address"),
  column("string", "Tool", "tool"),
  column("string", "ArgumentDigest", "argumentDigest"),
  column("dynamic", "Arguments", "arguments"),
  column("string", "Outcome", "outcome"),
  column("real", "DurationMs", "durationMs"),
  column("string", "Reason", "reason"),
  column("string", "RequestMethod", "requestMethod"),
  column("string", "RequestPath", "path"),
  column("string", "ServerVersion", "version"),
  column("string", "Sink", "sink"),
  column("long", "LostFrom", "from"),
  column("long", "LostTo", "to"),
  column("long", "LineCount", "lines"),
  column("string", "ChainId", "chain", "id"),
  column("long", "Seq", "chain", "seq"),
  column("string", "PrevHash", "chain", "prev"),
  column("string", "Hash", "chain", "hash"),
];

const CONVERSIONS = { string: "tostring", long: "tolong", real: "toreal", dynamic: undefined } as const;

/**
 * The rule's transformation. A line that is no JSON keeps its text and has no other column. Source: Microsoft, "Supported
 * KQL features in Azure Monitor transformations".
 */
export function auditTransformation(): string {
  const values = AUDIT_COLUMNS.map(({ name, type, path = [] }) => {
    const value = `parsed${path.map((key) => `["${key}"]`).join("")}`;
    const conversion = CONVERSIONS[type];
    return `${name} = ${conversion === undefined ? value : `${conversion}(${value})`}`;
  });
  const sent = SENT_COLUMNS.map(({ name }) => name);
  return `source | extend parsed = parse_json(Line) | project ${[...sent, ...values].join(", ")}`;
}
