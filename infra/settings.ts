import { RunError } from "@pulumi/pulumi";
import { closest, distance } from "fastest-levenshtein";
import { z } from "zod";
import { parseAccessPolicy } from "../server/auth/roles.ts";
import { EnvironmentError, ROLES, type Role } from "../server/config.ts";

/** The project's name in Pulumi.yaml, and so the namespace of every setting. */
export const PROJECT = "mcp";

/** What a stack's file asks for, checked and complete. Everything below index.ts works from this and nothing else. */
export interface Settings {
  readonly stack: string;
  /** Short workload name inside every Azure name. */
  readonly name: string;
  readonly location: string;
  readonly tags: Readonly<Record<string, string>>;
  /** Label under `<region>.cloudapp.azure.com`; absent: derived from the subscription and the stack. */
  readonly dnsLabel?: string;
  /** The endpoint's own host name; absent: the DNS label's. */
  readonly domain?: string;
  /** A published image by digest; absent: built from server/Dockerfile and pushed to the stack's registry. */
  readonly image?: string;
  readonly managementPlanes: ManagementPlanes;
  readonly privateEndpoints: boolean;
  /** Who administers cluster and vault; empty: whoever runs `pulumi up`. */
  readonly admins: readonly Admin[];
  /** Whose workflows deploy the stack, as GitHub's tokens name the repository; absent: nobody's. */
  readonly github?: { readonly repository: string };
  /** Guards stateful resources against deletion (Pulumi's `protect`). */
  readonly protect: boolean;
  readonly certificate: { readonly issuer: CertificateIssuer; readonly email?: string };
  readonly logRetentionDays: number;
  readonly maintenance: { readonly day: string; readonly startTime: string };
  readonly cluster: {
    readonly tier: "Free" | "Standard";
    readonly kubernetesVersion: string;
    readonly systemPool: NodePool;
    /** Absent: everything runs on the system pool, which then carries no taint. */
    readonly userPool?: NodePool;
    /** Keeps workloads off the system pool by the CriticalAddonsOnly taint. */
    readonly systemPoolDedicated: boolean;
    readonly zones: readonly string[];
  };
  readonly registry: { readonly sku: "Basic" | "Standard" | "Premium" };
  readonly keyVault: { readonly retentionDays: number; readonly purgeProtection: boolean };
  readonly serviceBus: { readonly sku: "Standard" | "Premium" };
  /** Absent: the server keeps cache and rate limits in memory, which one replica can. */
  readonly cache?: { readonly sku: string; readonly highAvailability: boolean };
  readonly workspace: { readonly kind: "nfs" | "emptyDir"; readonly sizeGiB: number };
  readonly server: {
    readonly replicas: Range;
    readonly commands: Commands;
    /** Whether calls that change something go on while the audit trail cannot be kept. */
    readonly auditFailure: "open" | "closed";
  };
  readonly jobs: {
    /** Days after its end that a job is kept, with its result. */
    readonly retentionDays: number;
    /** How many workers KEDA may run, by the jobs that wait. Absent: jobs run in the one server, and end with it. */
    readonly workers?: Range;
  };
  readonly keda: { readonly role: "queue-reader" | "receiver" };
  /** How long the audit trail is kept, and whether a copy is made that nobody can shorten. */
  readonly audit: { readonly retentionDays: number; readonly immutable: boolean };
  readonly authentication: Authentication;
  /** Which app roles, groups and tools go with which role, as the server's ACCESS_POLICY has it; absent: its default. */
  readonly accessPolicy?: string;
  /** Web origins whose pages may call the endpoint. */
  readonly corsOrigins: readonly string[];
  /** Who hears of it when something goes wrong. */
  readonly alerts: {
    /** Whom Azure Monitor writes to; empty: nobody. */
    readonly emails: readonly string[];
    /** Where Alertmanager posts what the cluster's Prometheus finds; absent: nowhere. */
    readonly webhook?: AlertWebhook;
  };
}

export interface AlertWebhook {
  /** Secret: whoever has it can post there. */
  readonly url: string;
  /** What is posted: Alertmanager's own JSON, or a message as Slack or Microsoft Teams takes it. */
  readonly kind: "json" | "slack" | "teams";
}

/** How callers prove who they are; one of the two at least. */
export interface Authentication {
  readonly apiKeys: boolean;
  readonly entra?: EntraSettings;
}

export interface EntraSettings {
  /** Applications that stand in the tenant already; absent: the stack makes its own. */
  readonly existing?: { readonly clientId: string; readonly ideClientId: string };
  /** A public client of one's own for IDEs, beside an application that the stack makes; absent: it makes that, too. */
  readonly ideClientId?: string;
  /** Tenants whose users may come; empty: the subscription's. */
  readonly allowedTenants: readonly string[];
  /** Further client applications that need no consent. */
  readonly clientIds: readonly string[];
  /** Who gets which role; empty: whoever runs `pulumi up` is admin. */
  readonly roleAssignments: readonly AppRoleGrant[];
}

export interface AppRoleGrant {
  readonly role: Role;
  readonly type: Admin["type"];
  readonly objectId: string;
}

/** Who reaches the API server, the registry and the vault: everyone, named ranges, or the network alone. */
export type ManagementPlanes =
  | { readonly access: "public" }
  | { readonly access: "ranges"; readonly ranges: readonly string[] }
  | { readonly access: "private"; readonly runnerNetworkId: string };

export type CertificateIssuer = "letsencrypt-staging" | "letsencrypt-prod";
export type Range = { readonly min: number; readonly max: number };
export type NodePool = Range & { readonly vmSize: string };
/** What `execute_command` may do; docs/sandbox.md says how it is held. */
export interface Commands {
  /** `required`: a server that cannot isolate commands does not start. */
  readonly isolation: "required" | "auto";
  readonly network: boolean;
  /** The only programs that callers may run, without a shell; absent: whatever a shell can start. */
  readonly programs?: readonly string[];
}
export type Admin = { readonly type: "User" | "Group" | "ServicePrincipal"; readonly objectId: string };

/** All faults of a stack's file at once. Shown by Pulumi without a stack trace. */
export class SettingsError extends RunError {
  readonly faults: readonly string[];

  constructor(stack: string, faults: readonly string[]) {
    const count = faults.length === 1 ? "one setting" : `${faults.length} settings`;
    super(
      `Stack "${stack}" has ${count} to mend before anything is created:\n${faults.map((f) => `  - ${f}`).join("\n")}`,
    );
    this.faults = faults;
  }
}

/** The stacks' table: what each profile means where the stack's file is silent. */
const PROFILES = {
  dev: {
    authentication: "entra,api-key",
    aksTier: "Free",
    systemPool: "1-3",
    userPool: "none",
    systemPoolDedicated: false,
    zones: "none",
    managementPlanes: "public",
    privateEndpoints: "off",
    registrySku: "Basic",
    keyVaultRetentionDays: 7,
    keyVaultPurgeProtection: "off",
    serviceBusSku: "Standard",
    cache: "memory",
    cacheHighAvailability: "off",
    workspace: "nfs",
    replicas: "1-1",
    workers: "0-2",
    commandIsolation: "auto",
    commandNetwork: "on",
    commandPrograms: "any",
    auditFailure: "open",
    auditRetentionDays: 30,
    auditImmutable: "off",
    certificateIssuer: "letsencrypt-staging",
    protect: "off",
  },
  staging: {
    authentication: "entra",
    aksTier: "Standard",
    systemPool: "2-2",
    userPool: "2-5",
    systemPoolDedicated: false,
    zones: "none",
    managementPlanes: "public",
    privateEndpoints: "off",
    registrySku: "Standard",
    keyVaultRetentionDays: 90,
    keyVaultPurgeProtection: "off",
    serviceBusSku: "Standard",
    cache: "Balanced_B0",
    cacheHighAvailability: "off",
    workspace: "nfs",
    replicas: "2-6",
    workers: "0-10",
    commandIsolation: "auto",
    commandNetwork: "on",
    commandPrograms: "any",
    auditFailure: "open",
    auditRetentionDays: 90,
    auditImmutable: "off",
    certificateIssuer: "letsencrypt-prod",
    protect: "off",
  },
  prod: {
    authentication: "entra",
    aksTier: "Standard",
    systemPool: "3-3",
    userPool: "3-10",
    systemPoolDedicated: true,
    zones: "1,2,3",
    managementPlanes: "private",
    privateEndpoints: "on",
    registrySku: "Premium",
    keyVaultRetentionDays: 90,
    keyVaultPurgeProtection: "on",
    serviceBusSku: "Premium",
    cache: "Balanced_B1",
    cacheHighAvailability: "on",
    workspace: "nfs",
    replicas: "2-20",
    workers: "1-20",
    commandIsolation: "required",
    commandNetwork: "off",
    // What Debian's base image has for looking at files and working with text.
    commandPrograms:
      "basename,cat,cmp,comm,cp,cut,date,diff,dirname,du,echo,find,grep,head,ls,mkdir,mv,paste,printf,realpath,rm,sed,sha256sum,sort,stat,tail,touch,tr,uniq,wc",
    auditFailure: "closed",
    auditRetentionDays: 365,
    auditImmutable: "on",
    certificateIssuer: "letsencrypt-prod",
    protect: "on",
  },
} as const;

/** The value by which a stack's file leaves a line to its profile; also the default in Pulumi.yaml. */
const BY_PROFILE = "profile";

/** A zod issue whose message carries the value and the mend, so that no caller has to compose one. */
function refuse(message: (value: string) => string) {
  return { error: (issue: { input?: unknown }) => message(JSON.stringify(issue.input)) };
}

const text = (pattern: RegExp, mend: string) =>
  z.string().regex(
    pattern,
    refuse((v) => `${v} ${mend}`),
  );
const optionalText = (pattern: RegExp, mend: string) =>
  z
    .union(
      [z.literal("").transform(() => undefined), text(pattern, mend)],
      refuse((v) => `${v} ${mend}`),
    )
    .optional();
const oneOf = <const T extends readonly [string, ...string[]]>(...values: T) =>
  z.enum(
    values,
    refuse((v) => `${v} is not one of ${values.join(", ")}`),
  );
const byProfile = <const T extends readonly [string, ...string[]]>(...values: T) =>
  oneOf(BY_PROFILE, ...values).default(BY_PROFILE);
const integer = (min: number, max: number, unit: string) =>
  z
    .string()
    .regex(
      /^\d{1,9}$/,
      refuse((v) => `${v} is not a whole number; give ${unit} from ${min} to ${max}`),
    )
    .transform(Number)
    .refine(
      (n) => n >= min && n <= max,
      refuse((v) => `${v} is out of bounds; give ${unit} from ${min} to ${max}`),
    );
const list = <T extends z.ZodType>(item: T) =>
  z
    .string()
    .default("[]")
    .transform((json, context): unknown => {
      try {
        return JSON.parse(json);
      } catch {
        context.addIssue({
          code: "custom",
          message: `${JSON.stringify(json)} is not a list; write it as YAML list items`,
        });
        return z.NEVER;
      }
    })
    .pipe(
      z.array(
        item,
        refuse((v) => `${v} is not a list; write it as YAML list items`),
      ),
    );

/** "2-6" or "2", both ends at least `least`. */
const range = (least: number, most: number, unit: string) => {
  const mend = `is not a range of ${unit}; write "min-max" with ${least} <= min <= max <= ${most}, such as "${least}-${least + 2}"`;
  return text(/^\d{1,4}(-\d{1,4})?$/, mend)
    .transform((value): Range => {
      const [min = 0, max = min] = value.split("-").map(Number);
      return { min, max };
    })
    .refine(
      (r) => least <= r.min && r.min <= r.max && r.max <= most,
      refuse((v) => `${v} ${mend}`),
    );
};

const PRIVATE_RANGES =
  /^(0|10|127)\.|^169\.254\.|^172\.(1[6-9]|2\d|3[01])\.|^192\.168\.|^100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|^(22[4-9]|2[3-5]\d)\./;

/**
 * A public IPv4 range as AKS, Container Registry and Key Vault all take it: no host bits, no private space (ACR and Key
 * Vault refuse RFC 1918), and not the whole internet. A single address becomes a /32.
 */
const publicRange = z
  .string(refuse((v) => `${v} is not text; write a CIDR range such as "203.0.113.7/32"`))
  .transform((value, context) => {
    const fault = (message: string) => {
      context.addIssue({ code: "custom", message: `${JSON.stringify(value)} ${message}` });
      return z.NEVER;
    };
    const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:\/(\d{1,2}))?$/.exec(value);
    if (!match) return fault("is not an IPv4 address or CIDR range; write it like 203.0.113.7/32");
    const octets = match.slice(1, 5).map(Number);
    const bits = match[5] === undefined ? 32 : Number(match[5]);
    if (octets.some((o) => o > 255) || bits > 32)
      return fault("is not an IPv4 range; octets go to 255, prefixes to 32");
    if (bits < 8) return fault("opens more than a /8; name the addresses you deploy from");
    if (PRIVATE_RANGES.test(value)) {
      return fault(
        "is not a public address; give the one that your network shows to the internet, or set mcp:runnerNetworkId",
      );
    }
    const address = octets.reduce((sum, octet) => sum * 256 + octet, 0);
    const start = address - (address % 2 ** (32 - bits));
    if (start !== address) {
      const dotted = [24, 16, 8, 0].map((shift) => Math.floor(start / 2 ** shift) % 256).join(".");
      return fault(`has bits set behind its prefix; write ${dotted}/${bits}`);
    }
    return `${octets.join(".")}/${bits}`;
  });

const EMAIL = /^[^\s@]+@[^\s@]+\.[^\s@]+$/;

/** A secret, so its faults do not say what was given. */
const webhook = z
  .string()
  .default("")
  .refine((value) => value === "" || URL.parse(value)?.protocol === "https:", {
    error: "is not an https URL (it is a secret, so not shown); copy it whole from where the webhook was made",
  })
  .transform((value) => (value === "" ? undefined : value));

const admin = text(
  /^(User|Group|ServicePrincipal):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i,
  'is not an admin; write "User:<object id>", "Group:<object id>" or "ServicePrincipal:<object id>"',
).transform((value): Admin => {
  const [type, objectId] = value.split(":") as [Admin["type"], string];
  return { type, objectId };
});

const GUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
/** Entra's ids are compared without case; one spelling keeps resource names and lists from differing by it. */
const guid = (mend: string) => text(GUID, mend).transform((id) => id.toLowerCase());
const optionalGuid = (mend: string) =>
  z
    .union(
      [z.literal("").transform(() => undefined), guid(mend)],
      refuse((v) => `${v} ${mend}`),
    )
    .optional();

const PRINCIPALS = { user: "User", group: "Group", serviceprincipal: "ServicePrincipal" } as const;
const roleAssignment = text(
  new RegExp(`^(${ROLES.join("|")}):(user|group|servicePrincipal):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, "i"),
  'is not an assignment; write "<role>:<kind>:<object id>", the role one of reader, operator, admin, the kind one of user, group, servicePrincipal',
).transform((value): AppRoleGrant => {
  const [role, kind, objectId] = value.toLowerCase().split(":") as [Role, keyof typeof PRINCIPALS, string];
  return { role, type: PRINCIPALS[kind], objectId };
});

/** RFC 6454: scheme, host and port, and no more; the server compares whole origins, so a pattern would match nothing. */
const origin = z.string(refuse((v) => `${v} is not text; write an origin such as "https://app.example.com"`)).refine(
  (value) => {
    const url = URL.parse(value);
    const plain = url?.protocol === "https:" || (url?.protocol === "http:" && url.hostname === "localhost");
    return plain && url?.origin === value;
  },
  refuse(
    (v) =>
      `${v} is not a web origin; write scheme and host such as "https://app.example.com", without a path, a trailing slash or *, and http for localhost alone`,
  ),
);

/** A JSON object, checked by the server's own reader; undefined for an empty one. */
const accessPolicy = z
  .string()
  .default("{}")
  .transform((json, context): string | undefined => {
    if (json === "" || json === "{}") return undefined;
    try {
      parseAccessPolicy(json);
      return json;
    } catch (error) {
      const mends = error instanceof EnvironmentError ? error.faults.map(({ mend }) => mend) : [String(error)];
      for (const message of mends) context.addIssue({ code: "custom", message });
      return z.NEVER;
    }
  });

const tag = text(
  /^[^<>%&\\?/=]{1,128}=.{0,256}$/,
  'is not a tag; write "key=value", the key without < > % & \\ ? / and up to 128 characters',
).transform((value): [string, string] => [value.slice(0, value.indexOf("=")), value.slice(value.indexOf("=") + 1)]);

// AKS asks system pools for at least four vCPUs and no burstable sizes (AKS: "Use system node pools").
const vmSize = text(/^Standard_[A-Z][A-Za-z0-9_-]+$/, 'is not a VM size; write one such as "Standard_D4ds_v5"')
  .refine(
    (size) => !size.startsWith("Standard_B"),
    refuse(
      (v) => `${v} is burstable, which AKS advises against for system pools; take a D size such as "Standard_D4ds_v5"`,
    ),
  )
  .refine(
    (size) => Number(/^Standard_[A-Z]+(\d+)/.exec(size)?.[1] ?? 0) >= 4,
    refuse((v) => `${v} has fewer than 4 vCPUs, too few for a system pool; take "Standard_D4ds_v5" or larger`),
  );

const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

// Log Analytics, "Manage data retention": by the day up to two years, then by the year, up to twelve.
const MOST_DAYS_BY_THE_DAY = 730;
const LONG_RETENTIONS: readonly number[] = [1095, 1460, 1826, 2191, 2556, 2922, 3288, 3653, 4018, 4383];
const LONGEST_TABLE_RETENTION = 4383;

/** Beyond it the subnet of nodes and the user pool would have to grow first. */
const MOST_WORKERS = 100;

/** Every key a stack's file may carry. Pulumi.yaml describes each; a test keeps the two together. */
const StackFile = z.object({
  profile: z
    .union(
      [z.literal(""), z.enum(["dev", "staging", "prod"])],
      refuse((v) => `${v} is not one of dev, staging, prod`),
    )
    .default(""),
  name: text(
    /^[a-z][a-z0-9]{1,5}$/,
    "cannot be part of Azure names; use 2 to 6 lower-case letters and digits, a letter first",
  ).default("mcp"),
  location: text(/^[a-z]+[0-9]?$/, 'is not a region\'s short name; write it like "eastus2"').default("eastus2"),
  tags: list(tag),
  dnsLabel: optionalText(
    /^[a-z][a-z0-9-]{1,61}[a-z0-9]$/,
    "is not a DNS label; use 3 to 63 lower-case letters, digits and hyphens, a letter first",
  ),
  domain: optionalText(
    /^(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/,
    'is not a host name; write it like "mcp.example.com", without scheme or path',
  ),
  image: optionalText(
    /^[a-z0-9][a-z0-9.-]*(:\d+)?(\/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$/,
    'does not name an image by digest; write "registry.example.com/repository@sha256:<64 hex digits>", for a tag can move',
  ),
  authorizedRanges: list(publicRange),
  runnerNetworkId: optionalText(
    /^\/subscriptions\/[0-9a-f-]{36}\/resourceGroups\/[^/]+\/providers\/Microsoft\.Network\/virtualNetworks\/[^/]+$/i,
    'is not the resource id of a virtual network; copy it from "az network vnet show --query id"',
  ),
  managementPlanes: byProfile("public", "private"),
  privateEndpoints: byProfile("on", "off"),
  admins: list(admin),
  // GitHub: "Repository names"; subjects with ids: "Workload identity federation immutable subjects" (Entra).
  githubRepository: optionalText(
    /^(?=[^@]*\/[^@]*$|[^@]+@\d+\/[^@]+@\d+$)[A-Za-z0-9][A-Za-z0-9-]{0,38}(@\d{1,20})?\/[\w.-]{1,100}(@\d{1,20})?$/,
    'is not a repository; write "owner/repository", or "owner@id/repository@id" for one made or renamed since 15 July 2026',
  ),
  protect: byProfile("on", "off"),
  certificateIssuer: byProfile("letsencrypt-staging", "letsencrypt-prod"),
  certificateEmail: optionalText(EMAIL, "is not an e-mail address"),
  logRetentionDays: integer(30, 730, "days").default(30),
  maintenanceWindow: text(
    new RegExp(`^(${DAYS.join("|")}) ([01]\\d|2[0-3]):[0-5]\\d$`),
    'is not a weekly window; write day and UTC start such as "Sunday 02:00"',
  ).default("Sunday 02:00"),
  kubernetesVersion: oneOf("1.35", "1.36").default("1.36"),
  aksTier: byProfile("Free", "Standard"),
  zones: text(
    /^(profile|none|(?!.*([123]).*\2)[123](,[123]){0,2})$/,
    'is not a list of zones; write "none" or zones such as "1,2,3"',
  ).default(BY_PROFILE),
  systemPool: z.union([z.literal(BY_PROFILE), range(1, 100, "nodes")]).default(BY_PROFILE),
  systemVmSize: vmSize.default("Standard_D4ds_v5"),
  userPool: z.union([z.literal(BY_PROFILE), z.literal("none"), range(1, 100, "nodes")]).default(BY_PROFILE),
  userVmSize: text(/^Standard_[A-Z][A-Za-z0-9_-]+$/, 'is not a VM size; write one such as "Standard_D4ds_v5"').default(
    "Standard_D4ds_v5",
  ),
  registrySku: byProfile("Basic", "Standard", "Premium"),
  keyVaultRetentionDays: z
    .union(
      [z.literal("0"), integer(7, 90, "days")],
      refuse((v) => `${v} is out of bounds; give days from 7 to 90, or 0 for the profile's`),
    )
    .default("0"),
  keyVaultPurgeProtection: byProfile("on", "off"),
  serviceBusSku: byProfile("Standard", "Premium"),
  cache: text(
    /^(profile|memory|(Balanced_B|MemoryOptimized_M|ComputeOptimized_X)\d{1,4})$/,
    'is neither "memory" nor a size of Azure Managed Redis such as "Balanced_B1"',
  ).default(BY_PROFILE),
  cacheHighAvailability: byProfile("on", "off"),
  workspace: byProfile("nfs", "emptyDir"),
  // Premium file shares start at 100 GiB and end at 100 TiB.
  workspaceSizeGiB: integer(100, 102_400, "GiB").default(100),
  replicas: z.union([z.literal(BY_PROFILE), range(1, 100, "replicas")]).default(BY_PROFILE),
  workers: z.union([z.literal(BY_PROFILE), z.literal("none"), range(0, MOST_WORKERS, "workers")]).default(BY_PROFILE),
  jobRetentionDays: integer(1, 365, "days").default(7),
  commandIsolation: byProfile("required", "auto"),
  commandNetwork: byProfile("on", "off"),
  commandPrograms: text(
    /^[A-Za-z0-9/._+-]+(,[A-Za-z0-9/._+-]+)*$/,
    'is neither "any" nor a list of programs; write them like "cat,grep,/opt/tools/lint"',
  ).default(BY_PROFILE),
  auditFailure: byProfile("open", "closed"),
  auditRetentionDays: z
    .union(
      [z.literal("0"), integer(30, LONGEST_TABLE_RETENTION, "days")],
      refuse((v) => `${v} is out of bounds; give days from 30 to ${LONGEST_TABLE_RETENTION}, or 0 for the profile's`),
    )
    .default("0")
    .refine(
      (days) => days === "0" || days <= MOST_DAYS_BY_THE_DAY || LONG_RETENTIONS.includes(days),
      refuse(
        (v) =>
          `${v} is none that Log Analytics keeps a table for; give 30 to ${MOST_DAYS_BY_THE_DAY}, or for years one of ${LONG_RETENTIONS.join(", ")}`,
      ),
    ),
  auditImmutable: byProfile("on", "off"),
  kedaRole: oneOf("queue-reader", "receiver").default("queue-reader"),
  authentication: byProfile("entra", "entra,api-key", "api-key"),
  entraClientId: optionalGuid("is not a client id; copy the application's from \"az ad app list --query '[].appId'\""),
  oauthClientId: optionalGuid(
    "is not a client id; copy the public client's from \"az ad app list --query '[].appId'\"",
  ),
  allowedTenants: list(guid('is not a tenant id; copy it from "az account show --query tenantId"')),
  clientIds: list(guid("is not a client id; write the application's GUID, not its name")),
  roleAssignments: list(roleAssignment),
  accessPolicy,
  corsOrigins: list(origin),
  alertEmails: list(text(EMAIL, 'is not an e-mail address; write it like "oncall@example.com"')),
  alertWebhook: webhook,
  alertWebhookKind: oneOf("json", "slack", "teams").default("json"),
});

/** The keys a stack's file may carry, without the namespace. */
export const SETTING_KEYS: readonly string[] = Object.keys(StackFile.shape);

/**
 * Those of them that it may carry encrypted only. Pulumi.yaml cannot say so: what it calls secret, every stack has to
 * give.
 */
export const SECRET_KEYS: readonly string[] = ["alertWebhook"];

/**
 * Reads a stack's configuration.
 *
 * @param stack the Pulumi stack's name; it chooses the profile unless `mcp:profile` does.
 * @param config every configuration value as the engine hands it over: `mcp:<key>` to text, lists as JSON. Keys of
 *   other namespaces (providers') are left alone.
 * @throws SettingsError listing every fault, each naming key, value and mend.
 */
export function parseSettings(stack: string, config: Readonly<Record<string, string>>): Settings {
  const faults: string[] = [];
  const own = Object.entries(config).filter(([key]) => key.startsWith(`${PROJECT}:`));
  const values: Record<string, string> = {};
  for (const [key, value] of own) {
    const short = key.slice(PROJECT.length + 1);
    if (SETTING_KEYS.includes(short)) values[short] = value;
    else faults.push(`${key}: there is no such setting; ${suggestion(short)}`);
  }
  if (!/^[a-z][a-z0-9]{0,7}$/.test(stack)) {
    faults.push(
      `the stack's name "${stack}" cannot be part of Azure names; use up to 8 lower-case letters and digits, a letter first`,
    );
  }

  const parsed = StackFile.safeParse(values);
  if (!parsed.success) {
    for (const issue of parsed.error.issues) faults.push(`${PROJECT}:${issue.path.join(".")}: ${mostSpecific(issue)}`);
    throw new SettingsError(stack, faults);
  }
  const file = parsed.data;
  const profileName = file.profile || stack;
  if (!isProfile(profileName)) {
    faults.push(`${PROJECT}:profile: stack "${stack}" is none of dev, staging, prod; say which of them it resembles`);
    throw new SettingsError(stack, faults);
  }

  const settings = complete(stack, file, PROFILES[profileName], faults);
  faults.push(...impossibleCombinations(settings));
  if (faults.length > 0) throw new SettingsError(stack, faults);
  return settings;
}

type File = z.infer<typeof StackFile>;
type Profile = (typeof PROFILES)[keyof typeof PROFILES];

function isProfile(name: string): name is keyof typeof PROFILES {
  return Object.hasOwn(PROFILES, name);
}

function complete(stack: string, file: File, profile: Profile, faults: string[]): Settings {
  const choose = <K extends keyof Profile & keyof File>(key: K) =>
    (file[key] === BY_PROFILE ? profile[key] : file[key]) as Exclude<File[K], typeof BY_PROFILE>;
  type Switch =
    | "privateEndpoints"
    | "protect"
    | "keyVaultPurgeProtection"
    | "cacheHighAvailability"
    | "commandNetwork"
    | "auditImmutable";
  const on = (key: Switch) => choose(key) === "on";
  const pool = (value: Range | string): Range =>
    typeof value === "string" ? range(0, 100, "nodes").parse(value) : value;

  const userPool = choose("userPool");
  const workers = choose("workers");
  const zones = choose("zones");
  const cacheSku = choose("cache");
  const programs = choose("commandPrograms");
  const [day = "", startTime = ""] = file.maintenanceWindow.split(" ");
  return {
    stack,
    name: file.name,
    location: file.location,
    tags: Object.fromEntries(file.tags),
    dnsLabel: file.dnsLabel,
    domain: file.domain,
    image: file.image,
    managementPlanes: managementPlanes(file, profile, faults),
    privateEndpoints: on("privateEndpoints"),
    admins: file.admins,
    github: file.githubRepository === undefined ? undefined : { repository: file.githubRepository },
    protect: on("protect"),
    certificate: { issuer: choose("certificateIssuer"), email: file.certificateEmail },
    logRetentionDays: file.logRetentionDays,
    maintenance: { day, startTime },
    cluster: {
      tier: choose("aksTier"),
      kubernetesVersion: file.kubernetesVersion,
      systemPool: { ...pool(choose("systemPool")), vmSize: file.systemVmSize },
      userPool: userPool === "none" ? undefined : { ...pool(userPool), vmSize: file.userVmSize },
      systemPoolDedicated: profile.systemPoolDedicated && userPool !== "none",
      zones: zones === "none" ? [] : zones.split(","),
    },
    registry: { sku: choose("registrySku") },
    keyVault: {
      retentionDays: file.keyVaultRetentionDays === "0" ? profile.keyVaultRetentionDays : file.keyVaultRetentionDays,
      purgeProtection: on("keyVaultPurgeProtection"),
    },
    serviceBus: { sku: choose("serviceBusSku") },
    cache: cacheSku === "memory" ? undefined : { sku: cacheSku, highAvailability: on("cacheHighAvailability") },
    workspace: { kind: choose("workspace"), sizeGiB: file.workspaceSizeGiB },
    server: {
      replicas: pool(choose("replicas")),
      commands: {
        isolation: choose("commandIsolation"),
        network: on("commandNetwork"),
        programs: programs === "any" ? undefined : programs.split(","),
      },
      auditFailure: choose("auditFailure"),
    },
    jobs: { retentionDays: file.jobRetentionDays, workers: workers === "none" ? undefined : pool(workers) },
    keda: { role: file.kedaRole },
    audit: {
      retentionDays: file.auditRetentionDays === "0" ? profile.auditRetentionDays : file.auditRetentionDays,
      immutable: on("auditImmutable"),
    },
    authentication: authentication(file, choose("authentication"), faults),
    accessPolicy: file.accessPolicy,
    corsOrigins: [...new Set(file.corsOrigins)],
    alerts: {
      // Azure takes an address once, however it is spelled.
      emails: [...new Map(file.alertEmails.map((address) => [address.toLowerCase(), address])).values()],
      webhook: alertWebhook(file, faults),
    },
  };
}

/** Slack answers anything but its own form with 400, so such an alert would be told to nobody. */
const SLACK_HOST = "hooks.slack.com";

function alertWebhook({ alertWebhook: url, alertWebhookKind: kind }: File, faults: string[]): AlertWebhook | undefined {
  if (url === undefined) {
    if (kind !== "json") {
      faults.push(
        `mcp:alertWebhookKind: "${kind}" says how to write to a webhook, and there is none; run "npx pulumi config set --secret mcp:alertWebhook", or drop it`,
      );
    }
    return undefined;
  }
  if (new URL(url).hostname === SLACK_HOST && kind !== "slack") {
    faults.push(
      `mcp:alertWebhookKind: "${kind}" is not what ${SLACK_HOST} takes, to which mcp:alertWebhook leads; set it to "slack"`,
    );
  }
  return { url, kind };
}

/** Keys that say something of Entra alone. */
const ENTRA_KEYS = ["entraClientId", "oauthClientId", "allowedTenants", "clientIds", "roleAssignments"] as const;

function authentication(file: File, methods: Profile["authentication"] | "api-key", faults: string[]): Authentication {
  const apiKeys = methods !== "entra";
  if (methods === "api-key") {
    for (const key of ENTRA_KEYS) {
      const value = file[key];
      if (value === undefined || value.length === 0) continue;
      faults.push(
        `mcp:${key}: ${JSON.stringify(value)} means nothing while mcp:authentication is "api-key"; drop it, or set mcp:authentication to "entra" or "entra,api-key"`,
      );
    }
    return { apiKeys };
  }
  const { entraClientId, oauthClientId } = file;
  if (entraClientId !== undefined && oauthClientId === undefined) {
    faults.push(
      `mcp:oauthClientId: missing beside mcp:entraClientId ${JSON.stringify(entraClientId)}; name the public client by which IDEs log in, for the stack creates nothing in Entra then`,
    );
  }
  if (entraClientId !== undefined && entraClientId === oauthClientId) {
    faults.push(
      `mcp:oauthClientId: ${JSON.stringify(oauthClientId)} is mcp:entraClientId as well, and Entra gives no application a token for itself; name the other one, a public client`,
    );
  }
  const distinct = new Map(file.roleAssignments.map((grant) => [`${grant.role} ${grant.objectId}`, grant]));
  return {
    apiKeys,
    entra: {
      existing: entraClientId === undefined ? undefined : { clientId: entraClientId, ideClientId: oauthClientId ?? "" },
      ideClientId: oauthClientId,
      allowedTenants: [...new Set(file.allowedTenants)],
      clientIds: [...new Set(file.clientIds)],
      roleAssignments: [...distinct.values()],
    },
  };
}

/** Ranges narrow the public planes; a private profile without ranges needs to know where its runner sits. */
function managementPlanes(file: File, profile: Profile, faults: string[]): ManagementPlanes {
  const ranges = file.authorizedRanges;
  if (file.managementPlanes === "private" && ranges.length > 0) {
    faults.push(
      `mcp:authorizedRanges: ${JSON.stringify(ranges)} cannot narrow a private API server, for ranges bind only its public address; drop them or set mcp:managementPlanes to public`,
    );
  }
  if (ranges.length > 0) return { access: "ranges", ranges };
  const access = file.managementPlanes === BY_PROFILE ? profile.managementPlanes : file.managementPlanes;
  if (access === "public") return { access };
  if (file.runnerNetworkId === undefined) {
    faults.push(
      "mcp:managementPlanes: private planes can be reached from inside only, and nobody is inside; name the network your runner is in as mcp:runnerNetworkId, or the addresses you deploy from as mcp:authorizedRanges",
    );
  }
  return { access, runnerNetworkId: file.runnerNetworkId ?? "" };
}

/** Settings that are each valid and cannot work together. */
function impossibleCombinations(s: Settings): string[] {
  const faults: string[] = [];
  const replicas = s.server.replicas.max;
  if (replicas > 1 && !s.cache) {
    faults.push(
      `mcp:cache: "memory" cannot hold the rate limits of up to ${replicas} replicas; take a size such as "Balanced_B0" or set mcp:replicas to "1"`,
    );
  }
  if (replicas > 1 && s.workspace.kind === "emptyDir") {
    faults.push(
      `mcp:workspace: "emptyDir" is another one in each of up to ${replicas} replicas; take "nfs" or set mcp:replicas to "1"`,
    );
  }
  const { workers } = s.jobs;
  if (workers && s.workspace.kind === "emptyDir") {
    faults.push(
      `mcp:workspace: "emptyDir" is another one in the server and in each of up to ${workers.max} workers, whose jobs would not see the callers' files; take "nfs" or set mcp:workers to "none"`,
    );
  }
  if (workers?.max === 0) {
    faults.push(
      'mcp:workers: "0" runs no job that is submitted; write "0-2" for workers that are there when there are jobs, or "none" for jobs in the server itself',
    );
  }
  if (!workers && s.alerts.emails.length > 0) {
    faults.push(
      `mcp:alertEmails: ${JSON.stringify(s.alerts.emails)} would be told nothing with mcp:workers "none", for Azure's own alert is to the queues' dead letters; drop them, and set mcp:alertWebhook for what the cluster finds`,
    );
  }
  if (replicas > 1 && !workers) {
    faults.push(
      `mcp:workers: "none" leaves jobs in the memory of one of up to ${replicas} replicas, and the others know nothing of them; write a range such as "0-2" or set mcp:replicas to "1"`,
    );
  }
  if (s.privateEndpoints && s.registry.sku !== "Premium") {
    faults.push(
      `mcp:registrySku: "${s.registry.sku}" has no private endpoints; take "Premium" or set mcp:privateEndpoints to "off"`,
    );
  }
  if (s.privateEndpoints && s.serviceBus.sku !== "Premium") {
    faults.push(
      `mcp:serviceBusSku: "${s.serviceBus.sku}" has no private endpoints; take "Premium" or set mcp:privateEndpoints to "off"`,
    );
  }
  if (s.managementPlanes.access === "private" && !s.privateEndpoints) {
    faults.push(
      'mcp:privateEndpoints: "off" leaves private planes without a way in for the cluster itself; set it to "on"',
    );
  }
  return faults;
}

/** In a union, the branch that came furthest says best what is wrong. */
function mostSpecific(issue: z.core.$ZodIssue): string {
  if (issue.code !== "invalid_union") return issue.message;
  const branches = issue.errors.flat().filter((e) => e.code !== "invalid_value");
  return issue.message !== "Invalid input" ? issue.message : (branches[0]?.message ?? issue.message);
}

function suggestion(key: string): string {
  const near = closest(key, [...SETTING_KEYS]);
  return distance(key, near) <= 3 ? `did you mean ${PROJECT}:${near}?` : "docs/settings.md lists them all";
}

// RFC 5737: ranges for documentation, which the shipped stack files use.
const DOCUMENTATION_RANGES = /^(192\.0\.2|198\.51\.100|203\.0\.113)\./;

/**
 * Refuses what a plan may show and a deployment cannot mean: the examples of the shipped stack files.
 *
 * @throws SettingsError when `mcp:authorizedRanges` still holds an address reserved for documentation.
 */
export function refusePlaceholders({ stack, managementPlanes }: Settings): void {
  const ranges = managementPlanes.access === "ranges" ? managementPlanes.ranges : [];
  const faults = ranges
    .filter((r) => DOCUMENTATION_RANGES.test(r))
    .map(
      (r) =>
        `mcp:authorizedRanges: "${r}" is an example from which nobody can deploy; name the public address that you deploy from`,
    );
  if (faults.length > 0) throw new SettingsError(stack, faults);
}

/**
 * Refuses a secret that lies open in the stack's file.
 *
 * @param config as `parseSettings` takes it.
 * @param isEncrypted whether the file holds a key, `mcp:<key>`, encrypted.
 * @throws SettingsError naming the key, never its value.
 */
export function refuseClearText(
  stack: string,
  config: Readonly<Record<string, string>>,
  isEncrypted: (key: string) => boolean,
): void {
  const faults = SECRET_KEYS.map((key) => `${PROJECT}:${key}`)
    .filter((key) => (config[key] ?? "") !== "" && !isEncrypted(key))
    .map(
      (key) =>
        `${key}: stands in the stack's file for everyone to read; take it out, have a new one made in its place, and run "npx pulumi config set --secret ${key}"`,
    );
  if (faults.length > 0) throw new SettingsError(stack, faults);
}
