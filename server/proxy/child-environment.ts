/**
 * The environment of a child: built from nothing, so that it holds no secret of this server's, plus what is named.
 * PATH is always in it, since the command is looked for there.
 *
 * @param named names of variables to pass on, or `NAME=VALUE` to set one.
 * @throws Error naming the entry that cannot be.
 */
export function childEnvironment(named: readonly string[], own: NodeJS.ProcessEnv): Record<string, string> {
  const environment: Record<string, string> = { PATH: own.PATH ?? "/usr/local/bin:/usr/bin:/bin" };
  for (const entry of named) {
    const [, name, value] = /^([A-Za-z_]\w*)(?:=(.*))?$/s.exec(entry) ?? [];
    // What stands after = may be a secret.
    if (name === undefined) throw new Error(`--env ${JSON.stringify(entry.split("=")[0])} is no variable's name.`);
    const given = value ?? own[name];
    if (given === undefined) throw new Error(`--env ${name} is not set in this environment; set it, or leave it out.`);
    environment[name] = given;
  }
  return environment;
}
