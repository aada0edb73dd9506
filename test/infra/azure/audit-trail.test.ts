import { expect, test } from "vitest";
import { AUDIT_COLUMNS, auditTransformation, SENT_COLUMNS } from "../../../infra/azure/audit-columns.ts";
import { AuditLine } from "../../../server/observability/audit-chain.ts";
import { planAzure } from "./recorder.ts";

/** Keys of a line that need no column: the time has one of its own, and the stream is always the same. */
const WITHOUT_COLUMN = new Set(["time", "stream"]);

/** Every key of every kind of line, those inside of `chain` with a dot. */
function keysOfLines(): string[] {
  const keys = AuditLine.options.flatMap(({ shape }) =>
    Object.keys(shape).flatMap((key) =>
      key === "chain" ? Object.keys(shape.chain.shape).map((inner) => `chain.${inner}`) : [key],
    ),
  );
  return [...new Set(keys)].filter((key) => !WITHOUT_COLUMN.has(key)).toSorted();
}

test("the table has a column for whatever a line says, and no other", () => {
  expect(AUDIT_COLUMNS.map(({ path = [] }) => path.join(".")).toSorted()).toEqual(keysOfLines());
  const names = [...SENT_COLUMNS, ...AUDIT_COLUMNS].map(({ name }) => name.toLowerCase());
  expect(new Set(names).size).toBe(names.length);
});

test("what the server sends is what the stream declares, and the verification's columns come out of the text", () => {
  expect(SENT_COLUMNS.map(({ name }) => name)).toEqual(["TimeGenerated", "Line"]);
  const kql = auditTransformation();
  expect(kql).toMatch(/^source \| extend parsed = parse_json\(Line\) \| project TimeGenerated, Line, /);
  // docs/audit.md and `mcp-aks audit verify --help` query these.
  expect(kql).toContain('ChainId = tostring(parsed["chain"]["id"]), Seq = tolong(parsed["chain"]["seq"])');
  // Azure Monitor's limit for a transformation is 15,360 characters.
  expect(kql.length).toBeLessThan(15_360);
});

test("an immutable trail is copied to an account where it outlasts whoever administers the workspace", async () => {
  const { resources } = await planAzure("staging", { auditImmutable: "on", auditRetentionDays: "1095" });
  const find = (type: string, name: string) =>
    resources.find((resource) => resource.type === `azure-native:${type}` && resource.name === name);
  const account = find("storage:StorageAccount", "audit-copy");
  expect(account?.inputs).toMatchObject({
    networkRuleSet: { defaultAction: "Deny", bypass: "AzureServices" },
    immutableStorageWithVersioning: {
      enabled: true,
      immutabilityPolicy: { immutabilityPeriodSinceCreationInDays: 1095, allowProtectedAppendWrites: true },
    },
  });
  // Locked by a person, for good; no deployment sets it back.
  expect(account?.ignoreChanges).toContain("immutableStorageWithVersioning");
  expect(find("operationalinsights:Table", "audit-table")?.inputs).toMatchObject({
    retentionInDays: 730,
    totalRetentionInDays: 1095,
  });
  expect(find("operationalinsights:DataExport", "audit-export")?.inputs).toMatchObject({
    resourceId: account?.id,
    tableNames: ["McpAudit_CL"],
  });
  const lock = find("authorization:ManagementLockByScope", "audit-lock");
  expect(lock?.inputs).toMatchObject({ level: "CanNotDelete" });
  // Gone first when all of it goes.
  expect(lock?.dependencies.join()).toMatch(/audit-table.*audit-export|audit-export.*audit-table/);
});

test("a trail that may be purged has neither copy nor lock", async () => {
  const { resources } = await planAzure("dev");
  const names = resources.map(({ name }) => name);
  expect(names).toContain("audit-table");
  expect(names.filter((name) => /^audit-(copy|export|lock)/.test(name))).toEqual([]);
});
