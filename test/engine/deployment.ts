import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { AzureDouble } from "./azure-double.ts";
import { EmulatedProvider } from "./emulated-provider.ts";
import { EngineCloud } from "./engine-cloud.ts";
import { PROVIDERS } from "./provider-behaviour.ts";
import { findPulumi, PulumiProject } from "./pulumi-cli.ts";

const pulumi = await findPulumi();

/** Why these tests cannot run on this machine; undefined where they can. */
export const missing = await whatIsMissing();
if (missing !== undefined) console.warn(`\n  SKIPPED: the tests under the Pulumi engine, because ${missing}.\n`);

async function whatIsMissing(): Promise<string | undefined> {
  if (pulumi === undefined) {
    return "there is no Pulumi CLI on PATH (https://www.pulumi.com/docs/iac/download-install/)";
  }
  try {
    await promisify(execFile)("openssl", ["version"]);
    return undefined;
  } catch {
    return "openssl is not on PATH, which makes the certificate of their Azure double";
  }
}

/** A subscription of its own for one stack: an empty cloud, its providers, its registries, and the program before it. */
export class Deployment {
  readonly cloud: EngineCloud;
  readonly project: PulumiProject;
  readonly azure: AzureDouble;
  readonly #providers: readonly EmulatedProvider[];

  private constructor(
    cloud: EngineCloud,
    project: PulumiProject,
    azure: AzureDouble,
    providers: readonly EmulatedProvider[],
  ) {
    this.cloud = cloud;
    this.project = project;
    this.azure = azure;
    this.#providers = providers;
  }

  /**
   * @param config settings over those of the shipped stack file.
   * @param standingBefore ids of Azure resources that are there without the stack.
   */
  static async begin(
    stack: string,
    config: Readonly<Record<string, unknown>>,
    standingBefore: readonly string[],
  ): Promise<Deployment> {
    if (pulumi === undefined) throw new Error(missing);
    const cloud = new EngineCloud({ resourceIds: standingBefore });
    const azure = await AzureDouble.start(cloud);
    const providers = PROVIDERS.map((behaviour) => new EmulatedProvider(behaviour, cloud));
    const entries = await Promise.all(providers.map((provider) => provider.listen()));
    const project = await PulumiProject.create({
      cli: pulumi,
      stack,
      config,
      providers: entries.join(","),
      environment: azure.environment,
    });
    return new Deployment(cloud, project, azure, providers);
  }

  async end(): Promise<void> {
    for (const provider of this.#providers) provider.close();
    await this.azure.close();
    await this.project.remove();
  }
}
