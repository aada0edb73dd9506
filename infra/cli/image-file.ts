/** What a Dockerfile's last stage says about the containers made from it. */
export interface ImageConfig {
  readonly workingDir: string;
  readonly user: string | undefined;
  readonly environment: Readonly<Record<string, string>>;
  readonly exposedPorts: readonly number[];
  readonly entrypoint: readonly string[];
  readonly command: readonly string[];
}

/**
 * Reads a Dockerfile's last stage, with what it inherits from earlier stages of the same file (Dockerfile reference).
 * The base images' own settings are not in the file.
 *
 * @throws Error for an instruction that decides how the server starts and cannot be read here.
 */
export function imageConfig(dockerfile: string): ImageConfig {
  const stages = new Map<string, Stage>();
  let stage: Stage = { ...EMPTY };
  for (const { keyword, rest } of instructions(dockerfile)) {
    switch (keyword) {
      case "FROM": {
        const [, base = "", name] = /^(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?/i.exec(rest) ?? [];
        stage = { ...(stages.get(base.toLowerCase()) ?? EMPTY) };
        stage.environment = { ...stage.environment };
        if (name) stages.set(name.toLowerCase(), stage);
        break;
      }
      case "WORKDIR":
        stage.workingDir = rest.startsWith("/") ? rest : `${stage.workingDir.replace(/\/$/, "")}/${rest}`;
        break;
      case "USER":
        stage.user = rest;
        break;
      case "EXPOSE":
        stage.exposedPorts = [...stage.exposedPorts, ...rest.split(/\s+/).map((port) => Number.parseInt(port, 10))];
        break;
      case "ENV":
        for (const [, name = "", quoted, bare] of rest.matchAll(/([A-Za-z_]\w*)=(?:"((?:\\.|[^"\\])*)"|(\S*))/g)) {
          stage.environment[name] = quoted?.replace(/\\(.)/g, "$1") ?? bare ?? "";
        }
        break;
      case "ENTRYPOINT":
        stage.entrypoint = execForm(keyword, rest);
        // A new entry point resets the command of the stage before (Dockerfile reference, ENTRYPOINT).
        stage.command = [];
        break;
      case "CMD":
        stage.command = execForm(keyword, rest);
        break;
      case "ONBUILD":
        throw new Error("ONBUILD decides about other images than this one; say what it does in the stage itself");
    }
  }
  return stage;
}

interface Stage {
  workingDir: string;
  user: string | undefined;
  environment: Record<string, string>;
  exposedPorts: readonly number[];
  entrypoint: readonly string[];
  command: readonly string[];
}

const EMPTY: Stage = {
  workingDir: "/",
  user: undefined,
  environment: {},
  exposedPorts: [],
  entrypoint: [],
  command: [],
};

function* instructions(text: string): Generator<{ keyword: string; rest: string }> {
  const lines = text.split(/\r?\n/);
  for (let i = 0; i < lines.length; i += 1) {
    let line = lines[i]?.trim() ?? "";
    if (line === "" || line.startsWith("#")) continue;
    while (line.endsWith("\\") && i + 1 < lines.length) {
      i += 1;
      const next = lines[i]?.trim() ?? "";
      // Comments between continued lines are left out, as the builder does.
      if (!next.startsWith("#")) line = `${line.slice(0, -1)} ${next}`;
    }
    const heredoc = /^(?:RUN|COPY|ADD)\b.*<<-?"?(\w+)"?/i.exec(line)?.[1];
    if (heredoc) while (i + 1 < lines.length && lines[i + 1]?.trim() !== heredoc) i += 1;
    const [, keyword = "", rest = ""] = /^(\S+)\s*(.*)$/.exec(line) ?? [];
    if (heredoc) i += 1;
    yield { keyword: keyword.toUpperCase(), rest: rest.trim() };
  }
}

/** `["node", "main.js"]`. The shell form would put a shell between the kubelet's SIGTERM and the server. */
function execForm(keyword: string, rest: string): string[] {
  try {
    const words: unknown = JSON.parse(rest);
    if (Array.isArray(words) && words.every((word) => typeof word === "string")) return words;
  } catch {
    // Said below.
  }
  throw new Error(`${keyword} ${rest} is in shell form, whose shell would swallow SIGTERM; write it as a JSON list`);
}
