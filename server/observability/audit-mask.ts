import { isIPv4, isIPv6 } from "node:net";

/*
 * What never gets into the audit trail. Secrets are told by their shape: the prefixes that issuers gave their tokens so
 * that they can be found, the names that stand before a value, and the places in a URL that are made for credentials. In
 * doubt a thing is masked: a path that is missing in a line can be found by the arguments' digest, a leaked key cannot
 * be taken back.
 *
 * Every expression is linear in its input: a fixed prefix and then one class of characters that ends where it ends, or
 * bounded repetition. None has a part after an unbounded one that could fail.
 */

/** Personal data that is masked by setting; secrets always are. */
export const MASKABLE = ["email", "ip"] as const;
export type Maskable = (typeof MASKABLE)[number];

export type Mask = (text: string) => string;

export const SECRET = "[secret]";
const EMAIL = "[email]";
const IP = "[ip]";

/** Keys that stand in PEM, OpenSSH's and PGP's among them; one whose end was cut off goes to the end of the text. */
const PRIVATE_KEY =
  /-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|$)/g;

/** `://user:password@host`, and a long user alone, which is how tokens are given to git (RFC 3986 section 3.2.1). */
const URL_CREDENTIALS = /:\/\/(?:[^\s/?#@:"'<>]{0,256}:[^\s/?#"'<>]{0,1024}|[^\s/?#@:"'<>]{20,1024})@/g;

/** `Authorization: Scheme credentials` in a header, an object or an option; whatever the scheme. */
const AUTHORIZATION =
  /(authorization\\{0,2}["']?\s{0,4}[:=]\s{0,4}\\{0,2}["']?)(?:[A-Za-z][\w-]{0,30}\s{1,4})?[^\s"'\\]+/gi;

/** Credentials without the header's name. Words of a sentence ("bearer of news") are neither long nor have digits. */
const BEARER = /\b(bearer|negotiate|sharedkey|apikey)(\s{1,4})(?=[\w.~+/=:-]{0,64}\d|[\w.~+/=:-]{18})[\w.~+/=:-]{8,}/gi;
const BASIC = /\b(basic\s{1,4})([A-Za-z0-9+/]{4,}={0,2})/gi;

/** What every token below has, and most paths and words have not: found in a tenth of the time. */
const LONG_RUN = /[\w-]{15}|hooks\.slack/;

/** Tokens that their issuers made recognisable. Sources are the issuers' own descriptions for secret scanning. */
const TOKENS = new RegExp(
  [
    // JSON Web Tokens, signed, encrypted or cut: `eyJ` is `{"` in base64.
    /eyJ[\w-]{16,}(?:\.[\w-]*){0,4}/,
    // This project's keys; a metric such as mcp_tool_calls_total has neither digits nor capitals.
    /mcp_[A-Za-z0-9-]{1,40}_(?=[\w-]{0,64}[A-Z0-9])[\w-]{16,}/,
    // GitHub, GitLab, npm, PyPI, Docker.
    /gh[pousr]_[A-Za-z0-9]{20,}/,
    /github_pat_\w{20,}/,
    /gl(?:pat|ptt|dt|rt|soat|cbt)-[\w-]{16,}/,
    /npm_[A-Za-z0-9]{30,}/,
    /pypi-[\w-]{30,}/,
    /dckr_(?:pat|oat)_[\w-]{16,}/,
    // OpenAI, Anthropic and those who took the prefix over; Hugging Face; Databricks.
    /sk-(?:proj|svcacct|admin|ant|or|lf)-[\w-]{20,}/,
    /sk-(?=[A-Za-z0-9]{0,64}\d)[A-Za-z0-9]{20,}/,
    /hf_[A-Za-z0-9]{30,}/,
    /dapi[0-9a-f]{32}/,
    // AWS key ids, Google, Stripe, SendGrid, Vault, DigitalOcean, Slack.
    /(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}/,
    /AIza[\w-]{30,}/,
    /ya29\.[\w-]{20,}/,
    /GOCSPX-[\w-]{20,}/,
    /(?:[rs]k|whsec)_(?:live_|test_)?(?=[A-Za-z0-9]{0,64}\d)[A-Za-z0-9]{16,}/,
    /SG\.[\w-]{16,}(?:\.[\w-]*)?/,
    /hv[sbr]\.[\w-]{20,}/,
    /do[opr]_v1_[0-9a-f]{40,}/,
    /xox[abeoprs]-[\w-]{10,}/,
    /xapp-\d-[\w-]{10,}/,
    /hooks\.slack\.com\/(?:services|workflows)\/[\w/]+/,
    /AGE-SECRET-KEY-1[A-Z0-9]{20,}/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "g",
);

/** What the keys below have inside or at their end, to look for first: their beginnings are any characters. */
const INNER = /Q~|Az(?:Fu|Se|Ca)|JQQJ99|==/;

const INNER_TOKENS = new RegExp(
  [
    // Entra application secrets; Azure's keys with a signature inside (Functions, Search, Redis, API keys of AI services).
    /[\w~.-]{3}\dQ~[\w~.-]{31,}/,
    /[\w/+-]{44}AzFu[\w/+-]{5}[AQgw](?:==)?/,
    /[A-Za-z0-9]{42}AzSe[A-D][A-Za-z0-9]{5}/,
    /[A-Za-z0-9+/]{33}AzCa[A-P][A-Za-z0-9+/]{5}=?/,
    /[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{24,}(?:==)?/,
    // 64 bytes in base64: keys of storage accounts, Cosmos DB and Batch. npm's integrity is as long, and says what it is.
    /(?<!sha512-)(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "g",
);

/** Names before a value. `keys`, `tokens` and other plurals count things, and are none of them. */
const NAMES = [
  /pass(?:wor[dt]|wd|phrase|code)/,
  /(?<![A-Za-z])(?:pass|pwd|pat|sas|auth|creds?)/,
  /secret(?:[_ -]?(?:access[_-]?)?(?:key|value|string|text))?/,
  /token/,
  /credentials?/,
  /(?:api|access|account|shared|sharedaccess|private|signing|encryption|primary|secondary|master|admin|function|host|subscription|storage|instrumentation|license|auth)[_-]?(?:access[_-]?)?key/,
  /connection[_-]?string/,
  /session[_-]?id/,
  /(?:client[_-]?)?assertion/,
  /code[_-]?verifier/,
]
  .map(({ source }) => source)
  .join("|");

const SECRET_NAME = new RegExp(`(?:${NAMES}|^authorization|cookie)$`, "i");

/** Whether what goes by this name is a secret, whatever it looks like. */
export const isSecretName = (name: string) => SECRET_NAME.test(name);

/** A value: quoted, quoted inside of a JSON string, or up to where a URL, a connection string or a word ends. */
const VALUE = String.raw`(?:"[^"\r\n]*"?|'[^'\r\n]*'?|\\{1,3}"[^"\r\n]*"?|[^\s;&"'\\][^\s;&]*)`;

/** `name=value`, `"name": "value"`, `name => value`, `name := value`, and `name%3Dvalue` where it was encoded for a URL. */
const NAMED_VALUE = new RegExp(
  String.raw`((?:${NAMES})\\{0,3}["']?\]?\s{0,4}(?:[:=]{1,3}>?|%3[ad])\s{0,4})${VALUE}`,
  "gi",
);

/** Signatures of shared access and of presigned URLs. With a colon, "signature" begins a sentence. */
const SIGNATURE = /((?<![A-Za-z])(?:sig|[\w-]{0,20}signature)(?:=|%3d))[^\s&;"'\\]+/gi;

/** `--password hunter2`: the name as an option, its value the next word unless that is an option itself. */
const OPTION = new RegExp(String.raw`(--?[\w-]{0,30}(?:${NAMES})\s{1,4})(?!-)${VALUE}`, "gi");

/** `-u name:password`, as curl takes it; numeric ids are docker's. */
const USER_OPTION =
  /((?<![\w-])(?:-u|--user|--proxy-user)[\s=]{1,4}["']?)(?!\d{1,10}:\d{1,10}(?![\w:]))[^\s:"']{1,256}:[^\s"']+/g;

const COOKIE = /((?:set-)?cookie2?\\{0,2}["']?\s{0,4}[:=]\s{0,4})(?:"[^"\r\n]*"?|'[^'\r\n]*'?|[^\r\n"']+)/gi;

/** An address of RFC 5321's usual form, in any script (RFC 6531). `git@github.com:` names a host's user, not a person. */
const EMAILS =
  /(?<![\p{L}\p{N}._%+-])(?!git@)[\p{L}\p{N}._%+-]{1,256}@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]{0,61}[\p{L}\p{N}])?\.){1,8}\p{L}{2,24}(?![\p{L}\p{N}])/gu;

/** Four numbers with dots; whether they are an address is isIPv4's to say. Versions have a `v`, or three or five parts. */
const IPV4 = /(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)/g;
const IPV6 = /(?<![\w:.])(?:[0-9a-f]{0,4}:){2,8}[0-9a-f]{0,4}(?![\w:])/gi;

/** Loopback and "any" are everybody's, and nobody's data. */
const NOBODYS = /^(?:127\.\d+\.\d+\.\d+|0\.0\.0\.0|255\.255\.255\.255|::1?)$/;

/** A mask for text from outside: secrets always, personal data as `what` says. Linear in the text's length. */
export function createMask(what: readonly Maskable[]): Mask {
  const [emails, addresses] = MASKABLE.map((each) => what.includes(each));
  return (text) => {
    const masked = withoutSecrets(text);
    const nameless = emails && masked.includes("@") ? masked.replace(EMAILS, EMAIL) : masked;
    return addresses ? withoutAddresses(nameless) : nameless;
  };
}

function withoutSecrets(text: string): string {
  let masked = text;
  if (masked.includes("-----BEGIN")) masked = masked.replace(PRIVATE_KEY, SECRET);
  if (masked.includes("://")) masked = masked.replace(URL_CREDENTIALS, `://${SECRET}@`);
  if (LONG_RUN.test(masked)) masked = masked.replace(TOKENS, SECRET);
  if (INNER.test(masked)) masked = masked.replace(INNER_TOKENS, SECRET);
  // What follows stands behind a name and a sign, or behind a word.
  if (/[:=]|%3/.test(masked)) {
    masked = masked
      .replace(AUTHORIZATION, `$1${SECRET}`)
      .replace(COOKIE, `$1${SECRET}`)
      .replace(NAMED_VALUE, `$1${SECRET}`)
      .replace(SIGNATURE, `$1${SECRET}`);
  }
  if (/\s/.test(masked)) {
    masked = masked
      .replace(BEARER, `$1$2${SECRET}`)
      .replace(BASIC, (whole, scheme: string, credentials: string) => (isBasic(credentials) ? scheme + SECRET : whole))
      .replace(OPTION, `$1${SECRET}`);
  }
  return masked.includes("-u") ? masked.replace(USER_OPTION, `$1${SECRET}`) : masked;
}

/** `user:password` in base64 (RFC 7617), as no word of a sentence is. */
function isBasic(credentials: string): boolean {
  return credentials.length % 4 === 0 && /^[\x20-\x7e]*:[\x20-\x7e]*$/.test(atob(credentials));
}

function withoutAddresses(text: string): string {
  const without4 = text.includes(".") ? text.replace(IPV4, (found) => hidden(found, isIPv4(found))) : text;
  return without4.includes(":") ? without4.replace(IPV6, (found) => hidden(found, isIPv6(found))) : without4;
}

const hidden = (found: string, isAddress: boolean) => (isAddress && !NOBODYS.test(found) ? IP : found);

/**
 * An address of a request as the audit has it: whole, or the network that it is of, which tells one attacker from
 * another and names nobody: 24 bits of IPv4, 48 of IPv6.
 */
export function maskedAddress(address: string, what: readonly Maskable[]): string {
  if (!what.includes("ip")) return address;
  const v4 = /^(?:::ffff:)?(\d+\.\d+\.\d+)\.\d+$/i.exec(address);
  if (v4 !== null) return `${v4[1]}.0/24`;
  if (!isIPv6(address)) return createMask(what)(address);
  return `${groupsOf(address).slice(0, 3).join(":")}::/48`;
}

/** The eight groups of an IPv6 address, without leading zeros. */
function groupsOf(address: string): string[] {
  const [head = "", tail] = (address.split("%")[0] ?? "").split("::");
  const left = head.split(":").filter(Boolean);
  const right = (tail ?? "").split(":").filter(Boolean);
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length);
  return [...left, ...Array<string>(zeros).fill("0"), ...right].map((group) =>
    group.toLowerCase().replace(/^0+(?=.)/, ""),
  );
}

/** Characters of a text from outside that are looked at; what is longer is cut at a space. */
const LOOKED_AT = 2048;
/** Characters of it that are kept. */
export const KEPT = 512;

/**
 * A text from outside, masked, and no longer than {@link KEPT} characters. What is cut is cut between words before it is
 * masked, so that no half of a secret is left that does not look like one, and said.
 */
export function safeText(text: string, mask: Mask): string {
  const masked = mask(text.length <= LOOKED_AT ? text : `${wholeWords(text)}...`);
  // Half a character, of a cut or of the caller's, is nothing that every reader of JSON takes.
  return (masked.length <= KEPT ? masked : `${masked.slice(0, KEPT - 3)}...`).toWellFormed();
}

function wholeWords(text: string): string {
  const start = text.slice(0, LOOKED_AT);
  return start.slice(0, Math.max(start.lastIndexOf(" "), start.lastIndexOf("\n"), 0));
}
