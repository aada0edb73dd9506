/*
 * What the audit trail must mask, and what only looks like it. Tokens are made up, put together here so that no scanner
 * of this repository takes them for real ones, and have the lengths and alphabets of their issuers.
 */

/** Characters of an alphabet, the same each time, without a visible pattern. */
function filled(length: number, alphabet: string, seed = 7): string {
  let state = seed * 7919 + length;
  let text = "";
  while (text.length < length) {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    text += alphabet[Math.floor((state / 2 ** 31) * alphabet.length)];
  }
  return text;
}

const LOWER = "abcdefghijklmnopqrstuvwxyz";
const DIGITS = "0123456789";
const HEX = "0123456789abcdef";
const ALNUM = `${LOWER}${LOWER.toUpperCase()}${DIGITS}`;
const BASE64URL = `${ALNUM}-_`;
const BASE64 = `${ALNUM}+/`;

const part = (json: object) => Buffer.from(JSON.stringify(json)).toString("base64url");
const JWT = `${part({ alg: "RS256", typ: "JWT", kid: "k1" })}.${part({ sub: "ada", exp: 1 })}.${filled(86, BASE64URL)}`;
const UNSIGNED = `${part({ alg: "none" })}.${part({ sub: "ada" })}.`;
const ENCRYPTED = `${part({ alg: "dir", enc: "A256GCM" })}..${filled(16, BASE64URL)}.${filled(60, BASE64URL)}.${filled(22, BASE64URL)}`;
const ACCOUNT_KEY = `${filled(86, BASE64)}==`;
const BUS_KEY = `${filled(43, BASE64)}=`;
const SAS = encodeURIComponent(`${filled(43, BASE64)}=`);
const PASSWORD = "h0rse-B4ttery!staple";
const pem = (kind: string) =>
  `-----BEGIN ${kind}-----\n${filled(64, BASE64)}\n${filled(40, BASE64)}\n-----END ${kind}-----`;
const inner = (kind: string) => pem(kind).split("\n")[1] ?? "";

/** A text, and what of it must not be left. */
export interface Positive {
  readonly name: string;
  readonly text: string;
  readonly secret: string;
}

const positive = (name: string, secret: string, around: (secret: string) => string = (text) => text): Positive => ({
  name,
  secret,
  text: around(secret),
});

export const SECRETS: readonly Positive[] = [
  // This project's keys.
  positive("this project's key", `mcp_dev_${filled(43, BASE64URL)}`),
  positive(
    "this project's key of prod",
    `mcp_prod_${filled(43, BASE64URL, 3)}`,
    (key) => `curl -H 'x: ${key}' https://h/mcp`,
  ),
  positive("this project's key in hex", `mcp_staging_${filled(64, HEX)}`, (key) => `key is ${key}.`),
  // Headers.
  positive("a bearer header", filled(32, ALNUM), (token) => `Authorization: Bearer ${token}`),
  positive("a bearer token alone", filled(40, BASE64URL), (token) => `bearer ${token}`),
  positive("a short bearer token", "abc123def4", (token) => `Bearer ${token}`),
  positive("a header in JSON", filled(32, ALNUM), (token) => JSON.stringify({ authorization: `Bearer ${token}` })),
  positive("a header in JSON in JSON", filled(32, ALNUM), (token) =>
    JSON.stringify(JSON.stringify({ Authorization: `Bearer ${token}` })),
  ),
  positive("a header of another scheme", filled(30, ALNUM), (token) => `authorization: Custom-Scheme ${token}`),
  positive("a header without a scheme", filled(30, LOWER), (token) => `Authorization: ${token}`),
  positive("basic credentials", btoa(`ada:${PASSWORD}`), (text) => `Basic ${text}`),
  positive("a basic header", btoa("ada:x"), (text) => `authorization: basic ${text}`),
  positive("a cookie", filled(24, ALNUM), (value) => `Cookie: theme=dark; session=${value}`),
  positive("a set cookie", filled(24, ALNUM), (value) => `set-cookie: sid=${value}; HttpOnly`),
  positive("an API key's header", filled(32, HEX), (key) => `X-API-Key: ${key}`),
  positive("Azure's key header", filled(32, HEX), (key) => `Ocp-Apim-Subscription-Key: ${key}`),
  // JSON Web Tokens.
  positive("a signed JWT", JWT),
  positive("an unsigned JWT", UNSIGNED, (token) => `token ${token} seen`),
  positive("an encrypted JWT", ENCRYPTED),
  positive("a JWT cut short", JWT.slice(0, 60)),
  positive("a JWT in a URL", JWT, (token) => `https://example.com/callback#id_token=${token}&state=1`),
  // Azure.
  positive("a storage account's key", ACCOUNT_KEY),
  positive(
    "a storage connection string",
    ACCOUNT_KEY,
    (key) => `DefaultEndpointsProtocol=https;AccountName=stmcp;AccountKey=${key};EndpointSuffix=core.windows.net`,
  ),
  positive(
    "a Service Bus connection string",
    BUS_KEY,
    (key) => `Endpoint=sb://sb.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=${key};EntityPath=q`,
  ),
  positive(
    "a shared access signature",
    SAS,
    (sig) => `https://st.blob.core.windows.net/c/f?sv=2024-08-04&se=2026-01-01&sr=b&sp=r&sig=${sig}`,
  ),
  positive("a signature alone", SAS, (sig) => `sig=${sig}&sp=r`),
  positive("a shared access token", SAS, (sig) => `SharedAccessSignature sr=x&sig=${sig}&se=1`),
  positive(
    "Application Insights",
    "7c1d2e3f-1111-2222-3333-444455556666",
    (key) => `InstrumentationKey=${key};IngestionEndpoint=https://x.in.applicationinsights.azure.com/`,
  ),
  positive(
    "an Entra application's secret",
    `a1B8Q~${filled(34, `${ALNUM}_~.-`)}`,
    (text) => `got ${text} from the portal`,
  ),
  positive("a Functions key", `${filled(44, BASE64URL)}AzFu${filled(5, BASE64URL)}Q==`),
  positive("a Search key", `${filled(42, ALNUM)}AzSeA${filled(5, ALNUM)}`),
  positive("a Redis key", `${filled(33, BASE64)}AzCaA${filled(5, BASE64)}=`),
  positive("an AI service's key", `${filled(52, ALNUM)}JQQJ99${filled(26, ALNUM)}`),
  positive(
    "a Redis connection string",
    `${filled(43, BASE64)}=`,
    (key) => `r.redis.cache.windows.net:6380,password=${key},ssl=True`,
  ),
  positive(
    "an SQL connection string",
    PASSWORD,
    (text) => `Server=tcp:s.database.windows.net;User ID=ada;Password=${text};Encrypt=true`,
  ),
  positive("an SQL connection string's short form", PASSWORD, (text) => `Server=s;Uid=ada;Pwd=${text};`),
  // Other issuers.
  positive("a GitHub token", `ghp_${filled(36, ALNUM)}`),
  positive("a GitHub Actions token", `ghs_${filled(36, ALNUM)}`, (token) => `GH_TOKEN is ${token}`),
  positive("a fine-grained GitHub token", `github_pat_${filled(22, ALNUM)}_${filled(59, ALNUM)}`),
  positive("a GitLab token", `glpat-${filled(20, BASE64URL)}`),
  positive("an npm token", `npm_${filled(36, ALNUM)}`, (token) => `//registry.npmjs.org/:_authToken=${token}`),
  positive("an npm token alone", `npm_${filled(36, ALNUM, 5)}`),
  positive("a PyPI token", `pypi-${filled(80, BASE64URL)}`),
  positive("a Docker token", `dckr_pat_${filled(27, BASE64URL)}`),
  positive("an OpenAI key", `sk-proj-${filled(48, BASE64URL)}`),
  positive("an older OpenAI key", `sk-${filled(48, ALNUM)}`),
  positive("an Anthropic key", `sk-ant-api03-${filled(80, BASE64URL)}`),
  positive("a Hugging Face token", `hf_${filled(34, ALNUM)}`),
  positive("an AWS key id", `AKIA${filled(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")}`),
  positive("an AWS session's key id", `ASIA${filled(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")}`),
  positive("an AWS secret key", filled(40, BASE64), (key) => `aws_secret_access_key = ${key}`),
  positive("a Google API key", `AIza${filled(35, BASE64URL)}`),
  positive("a Google token", `ya29.${filled(60, BASE64URL)}`),
  positive("a Stripe key", `sk_live_${filled(24, ALNUM)}`),
  positive("a SendGrid key", `SG.${filled(22, BASE64URL)}.${filled(43, BASE64URL)}`),
  positive("a Vault token", `hvs.${filled(90, BASE64URL)}`),
  positive("a Slack token", `xoxb-${filled(12, DIGITS)}-${filled(24, ALNUM)}`),
  positive(
    "a Slack webhook",
    `T0${filled(8, ALNUM)}/B0${filled(8, ALNUM)}/${filled(24, ALNUM)}`,
    (path) => `https://hooks.slack.com/services/${path}`,
  ),
  positive("a DigitalOcean token", `dop_v1_${filled(64, HEX)}`),
  // Private keys.
  ...[
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "PGP PRIVATE KEY BLOCK",
  ].map((kind) => positive(`a ${kind}`, inner(kind), () => `before\n${pem(kind)}\nafter`)),
  positive("a private key without its end", inner("PRIVATE KEY"), () => pem("PRIVATE KEY").slice(0, 120)),
  positive("a private key on one line", inner("PRIVATE KEY"), () => JSON.stringify(pem("PRIVATE KEY"))),
  // Credentials in URLs.
  positive("a database URL", PASSWORD, (text) => `postgres://ada:${text}@db.example.com:5432/app`),
  positive("a URL with a password of many signs", "p@ss:w0rd", (text) => `amqps://ada:${text}@mq.example.com/`),
  positive("a URL with a password alone", PASSWORD, (text) => `redis://:${text}@cache:6380/0`),
  positive(
    "git with a token for a user",
    filled(52, LOWER + DIGITS),
    (token) => `git clone https://${token}@dev.azure.com/o/p/_git/r`,
  ),
  // Names before values.
  positive("password=", PASSWORD, (text) => `password=${text}`),
  positive("a variable of the environment", PASSWORD, (text) => `DB_PASSWORD=${text} npm start`),
  positive("YAML", PASSWORD, (text) => `password: ${text}\nuser: ada`),
  positive("JSON", "two words, 1", (text) => JSON.stringify({ user: "ada", password: text })),
  positive("JSON of another name", filled(20, ALNUM), (text) => `{"client_secret":"${text}","grant_type":"x"}`),
  positive("a single-quoted value", "it is a secret", (text) => `passphrase='${text}' ssh-add`),
  positive("a form", filled(20, ALNUM), (text) => `grant_type=client_credentials&client_secret=${text}&scope=x`),
  positive("a form in a URL's parameter", filled(20, ALNUM), (text) => `q=client_secret%3D${text}`),
  positive("a camel-cased name", filled(20, ALNUM), (text) => `const apiKey = "${text}";`),
  positive("a token's name", filled(20, ALNUM), (text) => `refresh_token=${text}`),
  positive("Ruby's arrow", PASSWORD, (text) => `:password => "${text}"`),
  positive("Go", PASSWORD, (text) => `password := "${text}"`),
  // Command lines.
  positive("an option with =", PASSWORD, (text) => `mysql --user=ada --password=${text} db`),
  positive("an option and its value", PASSWORD, (text) => `az login --username ada --password ${text} --tenant t`),
  positive("an option of several words", filled(20, ALNUM), (text) => `tool --client-secret ${text}`),
  positive("curl's user", PASSWORD, (text) => `curl -u ada:${text} https://example.com`),
  positive(
    "a Kubernetes literal",
    PASSWORD,
    (text) => `kubectl create secret generic s --from-literal=password=${text}`,
  ),
];

export const EMAILS: readonly Positive[] = [
  "ada@example.com",
  "ada.lovelace+mcp@mail.example.co.uk",
  "a_b-c%d@sub.example.io",
  "jürgen@müller.de",
  "用户@例子.公司",
  "ADA@EXAMPLE.COM",
].map((email) => positive(email, email, (text) => `Author: Ada <${text}>, today`));

export const ADDRESSES: readonly Positive[] = [
  "203.0.113.7",
  "10.1.2.3",
  "192.168.178.254",
  "2001:db8::1",
  "2001:db8:85a3:0:0:8a2e:370:7334",
  "fe80::1ff:fe23:4567:890a",
  "fd00::",
].map((address) => positive(address, address, (text) => `from ${text}, again`));

/** What looks like one of the above and has to stay, or an audit trail says nothing. */
export const LOOK_ALIKES: readonly string[] = [
  "src/components/UserProfile2/index.tsx",
  "packages/task-management-component-library/README.md",
  "docs/password-policy.md",
  "secrets/README.md",
  "tokens.json",
  "da39a3ee5e6b4b0d3255bfef95601890afd80709",
  "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
  `sha512-${filled(86, BASE64)}==`,
  "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
  "0e7a61b2-1111-2222-3333-444455556666",
  "/subscriptions/0e7a61b2-1111-2222-3333-444455556666/resourceGroups/rg-mcp-dev",
  "mcp_tool_duration_seconds_bucket",
  "mcp_rate_limit_exceeded_total",
  "npm_config_registry",
  "npm install --save-exact lodash@4.17.21",
  "git clone git@github.com:example/repository.git",
  "git clone ssh://git@github.com/example/repository",
  "https://registry.example.com:4873/@scope/package",
  "https://example.com/a?page=2&sort=name",
  "http://127.0.0.1:8080/mcp",
  "http://localhost:8080",
  "http://[::1]:8080/",
  "0.0.0.0:8080",
  "node:24.21.0-slim",
  "version 1.2.3",
  "v10.20.30.40",
  "12.0.6099.109",
  "1.2.3.4.5",
  "12:34:56",
  "2026-02-03T04:05:06.789Z",
  "aa:bb:cc:dd:ee:ff",
  "std::vector",
  "the bearer of news",
  "Basic authentication is off",
  "Bearer authentication",
  "kubectl get secret mcp-server-keys -o name",
  "grep -r password src",
  "--token-file /var/run/token",
  "--password-stdin",
  "docker run -u 1000:1000 image",
  "max_tokens=4096",
  "tokenizer=fast",
  "bypass=true",
  "compass: north",
  "keyVaultName=kv-mcp-dev",
  "SharedAccessKeyName=RootManageSharedAccessKey",
  "sk-learn",
  "disk-usage-of-every-directory",
  "-----BEGIN CERTIFICATE-----",
  "-----BEGIN PUBLIC KEY-----",
  "def signature(a: int) -> str",
  "user@host",
  "@modelcontextprotocol/server",
  "eyJ.txt",
];
