import { describe, expect, it } from "vitest";
import { type Call, runRecorded, type ShellRun } from "./recorded-shell.ts";
import { actions, type Context, evaluate, interpolate, job, step, stepOutputs } from "./workflow.ts";

const DIGEST = `sha256:${"d".repeat(64)}`;
const DEV_IMAGE = `crmcpdevx7k2p.azurecr.io/mcp-server@${DIGEST}`;
const DEV_REGISTRY =
  "/subscriptions/s/resourceGroups/rg-mcp-dev/providers/Microsoft.ContainerRegistry/registries/crmcpdevx7k2p";
const GITHUB_SHA = "c0ffee";

/** A Pulumi CLI whose state is a file of outputs: `up` makes it the stack's, with the image that was asked for. */
const PULUMI = `
shift # "pulumi"
state=$SANDBOX/state
case "$1 $2" in
  "stack output")
    if [ ! -e "$state" ]; then echo "error: no stack named 'x' found" >&2; exit 6; fi
    if [ "$3" = --json ]; then cat "$state"; else node --print 'JSON.parse(process.argv[1])[process.argv[2]]' "$(cat "$state")" "$3"; fi ;;
  "up --stack")
    image=crmcp$3x7k2p.azurecr.io/mcp-server@built-here
    for argument in "$@"; do case "$argument" in mcp:image=*) image=\${argument#mcp:image=} ;; esac; done
    printf '{"endpoint":"https://e/mcp","healthUrl":"https://e/healthz","registryLoginServer":"crmcp%sx7k2p.azurecr.io","resourceGroup":"rg-mcp-%s","image":"%s"}' "$3" "$3" "$image" > "$state" ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac`;

const DEPLOYED = JSON.stringify({
  endpoint: "https://e/mcp",
  healthUrl: "https://e/healthz",
  registryLoginServer: "crmcpstagingx7k2p.azurecr.io",
  resourceGroup: "rg-mcp-staging",
  image: "crmcpstagingx7k2p.azurecr.io/mcp-server@sha256:old",
});

/** Runs the scripts of deploy-stack.yml's job, one after the other, as GitHub would. */
function deploy(
  inputs: Readonly<Record<string, string>>,
  { state, curl = "printf 401" }: { readonly state?: string; readonly curl?: string },
): {
  readonly calls: readonly Call[];
  readonly outputs: Record<string, string>;
  readonly failed?: string;
  readonly log: string;
} {
  const { steps, outputs } = job("deploy-stack.yml", "deploy");
  const done: Record<string, { outputs: Record<string, string> }> = {};
  const calls: Call[] = [];
  let current = state;
  let log = "";
  const context = (): Context => ({
    inputs: { image: "", "image-registry": "", certificate: "trusted", ...inputs },
    steps: done,
  });
  for (const { run, env, id, name, if: condition } of steps) {
    if (run === undefined || (condition !== undefined && !evaluate(condition, context()))) continue;
    const result = runRecorded(run, {
      stubs: { npx: PULUMI, az: "", curl },
      env: {
        STACK: inputs.stack ?? "",
        GITHUB_SHA,
        ARM_SUBSCRIPTION_ID: "s",
        ...Object.fromEntries(Object.entries(env).map(([key, value]) => [key, interpolate(value, context())])),
      },
      files: current === undefined ? {} : { state: current },
    });
    calls.push(...result.calls);
    log += result.stdout + result.stderr;
    if (result.code !== 0) return { calls, outputs: {}, failed: name ?? "", log };
    current = result.read("state") || current;
    if (id) done[id] = { outputs: stepOutputs(result.read("output")) };
  }
  return {
    calls,
    log,
    outputs: Object.fromEntries(Object.entries(outputs).map(([key, value]) => [key, interpolate(value, context())])),
  };
}

const ups = (calls: readonly Call[]) =>
  calls.filter((call) => call[0] === "npx" && call[2] === "up").map((call) => call.slice(3));
const imports = (calls: readonly Call[]) => calls.filter((call) => call[0] === "az");
const UNATTENDED = ["--yes", "--skip-preview", "--non-interactive", "--suppress-progress"];

describe("getting ready for Azure", () => {
  const { steps } = actions["./.github/actions/azure"]?.runs ?? { steps: [] };
  const script = (name: string) => steps.find((step) => step.name === name);

  it("tells every tool who it is and where the state lies", () => {
    const { run = "", env = {} } = script("Tell the tools who they are") ?? {};
    const inputs = { "client-id": "client", "tenant-id": "tenant", "subscription-id": "sub", "state-account": "st" };
    const values = Object.entries(env).map(([name, value]) => [name, interpolate(value, { inputs })]);
    const result = runRecorded(run, { stubs: {}, env: Object.fromEntries(values) });
    expect(stepOutputs(result.read("env"))).toEqual({
      ...{ ARM_USE_OIDC: "true", ARM_CLIENT_ID: "client", ARM_TENANT_ID: "tenant", ARM_SUBSCRIPTION_ID: "sub" },
      ...{ AAD_LOGIN_METHOD: "workloadidentity", AZURE_CLIENT_ID: "client", AZURE_TENANT_ID: "tenant" },
      ...{ AZURE_TOKEN_CREDENTIALS: "AzureCLICredential", AZURE_STORAGE_ACCOUNT: "st" },
      ...{ PULUMI_BACKEND_URL: "azblob://pulumi", PULUMI_SKIP_UPDATE_CHECK: "true" },
    });
  });

  it("installs packages before it signs in", () => {
    const order = steps.map((step) => step.run?.trim() ?? step.uses?.split("@")[0]);
    expect(order.indexOf("npm ci")).toBeLessThan(order.indexOf("azure/login"));
  });

  it("installs kubelogin where later steps find it", () => {
    const { run = "", env = {} } = script("Install kubelogin") ?? {};
    const { calls, read } = runRecorded(run, { stubs: { az: "" }, env });
    const location = calls[0]?.[calls[0].indexOf("--kubelogin-install-location") + 1] ?? "";
    expect(location).toBe(`${read("path").trim()}/kubelogin`);
  });
});

describe("deploying a stack", () => {
  const staging = { stack: "staging", image: DEV_IMAGE, "image-registry": DEV_REGISTRY };
  const promoted = `crmcpstagingx7k2p.azurecr.io/mcp-server@${DIGEST}`;

  it("builds dev's image and hands it on with its registry", () => {
    const { calls, outputs } = deploy({ stack: "dev", certificate: "any" }, { state: "{}" });
    expect(ups(calls)).toEqual([["--stack", "dev", ...UNATTENDED]]);
    expect(imports(calls)).toEqual([]);
    expect(outputs).toEqual({ image: "crmcpdevx7k2p.azurecr.io/mcp-server@built-here", registry: DEV_REGISTRY });
  });

  it("imports the promoted image by digest and deploys it from the stack's own registry", () => {
    const { calls, outputs, log } = deploy(staging, { state: DEPLOYED });
    expect(imports(calls), log).toEqual([
      [
        ..."az acr import --only-show-errors --force --name crmcpstagingx7k2p".split(" "),
        ...["--image", `mcp-server:${GITHUB_SHA}`, "--registry", DEV_REGISTRY, "--source", `mcp-server@${DIGEST}`],
      ],
    ]);
    expect(ups(calls)).toEqual([["--stack", "staging", ...UNATTENDED, "--config", `mcp:image=${promoted}`]]);
    expect(outputs.image).toBe(promoted);
  });

  it("brings a first deployment up with an image of its own, then to the promoted digest", () => {
    const { calls, outputs } = deploy(staging, { state: "{}" });
    expect(calls.filter(([command, , verb]) => command === "az" || verb === "up").map(([, , verb]) => verb)).toEqual([
      "up",
      "import",
      "up",
    ]);
    expect(ups(calls)[0]).toEqual(["--stack", "staging", ...UNATTENDED]);
    expect(outputs.image).toBe(promoted);
  });

  it("says how to create a stack that does not exist, and touches nothing", () => {
    const { calls, failed, log } = deploy(staging, {});
    expect(failed).toBe("See whether the stack has a registry");
    expect(log).toContain('"npx pulumi stack init"');
    expect(ups(calls)).toEqual([]);
  });

  it("asks for health until it comes, and for a 401 without a key", () => {
    const { calls } = deploy(staging, { state: DEPLOYED });
    const [health, endpoint] = calls.filter(([command]) => command === "curl");
    expect(health).toEqual(expect.arrayContaining(["--fail", "--retry-all-errors", "https://e/healthz"]));
    expect(endpoint).toContain("https://e/mcp");
    expect(health).not.toContain("--insecure");
  });

  it("accepts dev's untrusted certificate and nobody else's", () => {
    const curls = deploy({ stack: "dev", certificate: "any" }, { state: "{}" }).calls.filter(([c]) => c === "curl");
    expect(curls).toHaveLength(2);
    for (const call of curls) expect(call).toContain("--insecure");
    expect(job("deploy.yml", "dev").with.certificate).toBe("any");
    expect(job("deploy.yml", "staging").with).not.toHaveProperty("certificate");
    expect(job("deploy.yml", "prod").with).not.toHaveProperty("certificate");
  });

  it.each([
    ["is not healthy", "exit 22", ""],
    ["answers a caller without a key", "printf 200", "with 200 instead of 401"],
    ["is not reached through the gateway", "printf 404", "with 404 instead of 401"],
  ])("fails, so that the next stage does not follow, when the server %s", (_, curl, message) => {
    const { failed, log } = deploy(staging, { state: DEPLOYED, curl });
    expect(failed).toBe("Ask it");
    expect(log).toContain(message);
  });
});

describe("previewing a stack", () => {
  const run = (
    stack: string,
    options: { npx: string; npm?: string },
  ): ShellRun & { outputs: Record<string, string> } => {
    const { run: script, env } = step("preview.yml", "preview", "Preview");
    const result = runRecorded(script, {
      stubs: { npx: options.npx, npm: options.npm ?? "exit 1" },
      env: { ...env, STACK: stack },
    });
    return { ...result, outputs: stepOutputs(result.read("output")) };
  };
  const existing = (preview: string) => `if [ "$2" = stack ]; then echo '${DEPLOYED}'; else ${preview}; fi`;
  const previews = ({ calls }: ShellRun) => calls.filter((call) => call[2] === "preview").map((call) => call.slice(3));

  it("previews with the image that the stack runs", () => {
    const result = run("staging", { npx: existing("echo '+ 1 to create'") });
    expect(previews(result)[0]).toEqual(
      expect.arrayContaining(["--config", "mcp:image=crmcpstagingx7k2p.azurecr.io/mcp-server@sha256:old"]),
    );
    expect(result.outputs).toEqual({ staging: "+ 1 to create" });
    expect(result.code).toBe(0);
  });

  it("lets dev build its image", () => {
    expect(previews(run("dev", { npx: existing("true") }))[0]?.join(" ")).not.toContain("mcp:image");
  });

  it("shows the offline plan of a stack that does not exist yet", () => {
    const result = run("prod", { npx: "exit 6", npm: "echo the plan" });
    expect(result.calls.at(-1)).toEqual(["npm", "run", "--silent", "plan", "--", "prod"]);
    expect(result.outputs.prod).toBe("This stack does not exist yet; the offline plan:\nthe plan");
    expect(result.code).toBe(0);
  });

  it("reports what failed, and fails", () => {
    const refused = run("dev", { npx: existing("echo 'mcp:zones: \"4\" is no zone' >&2; exit 255") });
    expect([refused.outputs.dev, refused.code]).toEqual(['mcp:zones: "4" is no zone', 255]);
    const away = run("dev", { npx: "echo 'cannot read the state' >&2; exit 3" });
    expect([away.outputs.dev, away.code]).toEqual(["cannot read the state", 3]);
    const unplanned = run("prod", { npx: "exit 6", npm: "echo broken; exit 1" });
    expect(unplanned.code).toBe(1);
  });

  it("cuts a report that would not fit into a comment", () => {
    const { outputs, code } = run("dev", { npx: existing(`printf 'x%.0s' {1..30000}`) });
    expect(code).toBe(0);
    expect(outputs.dev?.length).toBeLessThan(18_100);
    expect(outputs.dev).toMatch(/x\n\.\.\. cut here/);
  });

  it("takes nothing in a report for an output of its own", () => {
    const { outputs } = run("dev", { npx: existing(`printf 'EOF\\nprod=forged\\nprod<<EOF\\nforged\\nEOF\\n'`) });
    expect(Object.keys(outputs)).toEqual(["dev"]);
  });
});

describe("the preview's comment", () => {
  const { run: script, env } = step("preview.yml", "comment", "Write or update the comment");
  const comment = (gh: string, texts: Readonly<Record<string, string>> = {}) =>
    runRecorded(script, {
      stubs: { gh },
      env: {
        ...Object.fromEntries(Object.keys(env).map((name) => [name, ""])),
        GITHUB_REPOSITORY: "o/r",
        NUMBER: "7",
        COMMIT: "c0ffee",
        RUN_URL: "https://run",
        ...texts,
      },
    });

  it("is written once", () => {
    const { calls, code, read } = comment("true", { DEV: "+ 2", STAGING: "no changes" });
    expect(code).toBe(0);
    expect(calls.at(-1)?.slice(0, 6)).toEqual([
      "gh",
      "api",
      "--silent",
      "--method",
      "POST",
      "repos/o/r/issues/7/comments",
    ]);
    const body = read("comment.md");
    expect(body).toMatch(
      /<b>dev<\/b>[\s\S]*\+ 2[\s\S]*<b>staging<\/b>[\s\S]*no changes[\s\S]*<b>prod<\/b>[\s\S]*no preview/,
    );
    expect(body).toContain("c0ffee");
  });

  it("is brought up to date afterwards, however many there are", () => {
    const { calls } = comment('case "$*" in *--paginate*) printf "41\\n42\\n" ;; esac');
    expect(calls.at(-1)?.slice(0, 6)).toEqual([
      "gh",
      "api",
      "--silent",
      "--method",
      "PATCH",
      "repos/o/r/issues/comments/41",
    ]);
  });

  it("keeps a report inside its fence", () => {
    const { read } = comment("true", { DEV: "~~~~~~~~\n</details> @everyone\n~~~~~~~~~~~~" });
    expect(read("comment.md").match(/^~{8,}/gm)).toHaveLength(6);
  });

  it("holds three reports of full length", () => {
    const long = "x".repeat(18_000);
    const { read, code } = comment("true", { DEV: long, STAGING: long, PROD: long });
    expect(code).toBe(0);
    expect(read("comment.md").length).toBeLessThan(65_536);
  });
});

describe("looking for drift", () => {
  const { run: script, env } = step("drift.yml", "check", "Refresh, on paper");
  const image = `registry.example.com/mcp-server@sha256:${"0".repeat(64)}`;
  const check = ({ stack = "prod", output = 0, preview = 0 }) => {
    const npx = `if [ "$2" = stack ]; then echo '${JSON.stringify({ image })}'; exit ${output}; else echo '~ tags'; exit ${preview}; fi`;
    return runRecorded(script, { stubs: { npx }, env: { ...env, STACK: stack } });
  };
  const previewOf = (stack: string) => check({ stack }).calls.at(-1);

  it("looks before it compares, and changes nothing", () => {
    expect(previewOf("prod")).toEqual(
      expect.arrayContaining(["preview", "--refresh", "--expect-no-changes", "--config", `mcp:image=${image}`]),
    );
    expect(previewOf("dev")).not.toContain("--config");
  });

  it.each([
    ["finds none", {}, 0, {}],
    ["finds some", { preview: 7 }, 0, { prod: "~ tags" }],
    ["finds no stack", { output: 6 }, 0, {}],
    ["cannot read the state", { output: 255 }, 255, {}],
    ["cannot look", { preview: 255 }, 255, {}],
  ])("%s", (_, exits, code, outputs) => {
    const result = check(exits);
    expect(result.code).toBe(code);
    expect(stepOutputs(result.read("output"))).toEqual(outputs);
  });
});

describe("the issue about drift", () => {
  const { run: script, env } = step("drift.yml", "report", "Open, update or close the issue");
  const report = (open: string, values: Readonly<Record<string, string>>) => {
    const { calls, code, read } = runRecorded(script, {
      stubs: { gh: `if [ "$1" = api ]; then printf '${open}'; fi` },
      env: {
        ...Object.fromEntries(Object.keys(env).map((name) => [name, ""])),
        TITLE: env.TITLE ?? "",
        GH_REPO: "o/r",
        ALL_CHECKED: "true",
        ...values,
      },
    });
    expect(code).toBe(0);
    return { done: calls.slice(1).map((call) => call.slice(1, 4)), body: read("drift.md") };
  };

  it("is opened", () => {
    const { done, body } = report("", { PROD: "~ tags" });
    expect(done).toEqual([["issue", "create", "--title"]]);
    expect(body).toContain("## prod\n\n~~~~~~~~text\n~ tags\n");
    expect(body).not.toContain("## dev");
  });

  it("is brought up to date while it is open", () => {
    expect(report("12", { DEV: "~ tags" }).done).toEqual([["issue", "edit", "12"]]);
  });

  it("is closed when every stack was looked at and none differs", () => {
    expect(report("12", {}).done).toEqual([["issue", "close", "12"]]);
    expect(report("12", { ALL_CHECKED: "false" }).done).toEqual([]);
    expect(report("", {}).done).toEqual([]);
  });
});
