import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { Image } from "@pulumi/docker/image.js";
import { ComponentResource, type ComponentResourceOptions, interpolate, type Output, output } from "@pulumi/pulumi";
import type { Registry } from "../azure/registry.ts";

/** The image's name in the registry. Its tag moves with every build: what runs is named by digest. */
const REPOSITORY = "mcp-server";
const TAG = "current";

/** Every AKS pool here is of this kind, whatever the builder's machine is. */
const PLATFORM = "linux/amd64";

const REPOSITORY_ROOT = fileURLToPath(new URL("../..", import.meta.url));

export interface ServerImageArgs {
  readonly registry: Pick<Registry, "loginServer" | "pushToken">;
  /** `registry/repository@sha256:...`; absent: built here. */
  readonly published?: string;
}

/**
 * The server's image: a published one, or one built from server/Dockerfile and pushed to the stack's registry. It
 * builds while the cluster comes up, for it needs the registry only.
 */
export class ServerImage extends ComponentResource {
  /** `registry/repository@sha256:<digest>`: a tag could move under a running Deployment. */
  readonly reference: Output<string>;

  constructor(name: string, args: ServerImageArgs, options?: ComponentResourceOptions) {
    super("mcp:workload:ServerImage", name, {}, options);
    this.reference = args.published === undefined ? this.#build(args.registry).repoDigest : output(args.published);
    this.registerOutputs({ reference: this.reference });
  }

  /** Rebuilds when a file of the build context changes; a new push token alone is no change. */
  #build(registry: ServerImageArgs["registry"]): Image {
    // Relative to where the engine runs the program, as the provider reads it: an absolute path would differ between
    // two people's checkouts and rebuild for each.
    const context = relative(process.cwd(), REPOSITORY_ROOT) || ".";
    return new Image(
      REPOSITORY,
      {
        imageName: interpolate`${registry.loginServer}/${REPOSITORY}:${TAG}`,
        build: { context, dockerfile: `${context}/server/Dockerfile`, platform: PLATFORM },
        registry: registry.pushToken(),
        // A preview neither builds nor needs Docker.
        buildOnPreview: false,
      },
      { parent: this },
    );
  }
}
