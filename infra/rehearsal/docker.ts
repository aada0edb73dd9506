import { existsSync } from "node:fs";
import { resolve } from "node:path";
import type { FakeAzure } from "./azure/azure.ts";
import { ROLE } from "./azure/roles.ts";
import { CloudError } from "./cloud-error.ts";
import type { CloudRequest, Created } from "./cloud-request.ts";
import { hexOf, textAt } from "./values.ts";

/** @pulumi/docker's Image: checks that it could be built and pushed; builds nothing. */
export function createImage({ inputs }: CloudRequest, azure: FakeAzure): Created {
  const imageName = textAt(inputs, "imageName") ?? "";
  const match = /^([a-z0-9.-]+(?::\d+)?)\/([a-z0-9._/-]+)(?::[\w.-]+)?$/.exec(imageName);
  if (!match)
    throw new CloudError(
      "InvalidReference",
      `error parsing reference: "${imageName}" is not a valid repository/tag`,
      400,
    );
  const [, server = "", repository = ""] = match;
  const registry = azure.all("Microsoft.ContainerRegistry/registries").find((r) => r.outputs.loginServer === server);
  if (server.endsWith(".azurecr.io") && !registry) {
    throw new CloudError("NoSuchHost", `failed to push ${imageName}: dial tcp: lookup ${server}: no such host`, 404);
  }
  const given = textAt(inputs, "registry.server");
  if (registry && inputs.skipPush !== true) {
    if (given !== server)
      throw new CloudError(
        "Unauthorized",
        `failed to push ${imageName}: credentials are for ${String(given)}, not ${server}`,
        401,
      );
    if (!textAt(inputs, "registry.username") || !textAt(inputs, "registry.password")) {
      throw new CloudError(
        "Unauthorized",
        `failed to push ${imageName}: unauthorized: authentication required, visit https://aka.ms/acr/authorization for more information.`,
        401,
      );
    }
    azure.takeUses();
    if (!azure.hasRole(undefined, ROLE.acrPush, registry.id)) {
      throw new CloudError(
        "Denied",
        `failed to push ${imageName}: denied: requested access to the resource is denied: nobody holds AcrPush on ${registry.name}`,
        403,
      );
    }
  }
  const uses = registry ? azure.takeUses() : [];
  const context = resolve(textAt(inputs, "build.context") ?? ".");
  const dockerfile = resolve(textAt(inputs, "build.dockerfile") ?? `${context}/Dockerfile`);
  if (!existsSync(dockerfile)) {
    const shown = textAt(inputs, "build.dockerfile") ?? "Dockerfile";
    throw new CloudError(
      "NotFound",
      `failed to solve: failed to read dockerfile: open ${shown}: no such file or directory`,
      404,
    );
  }
  if (textAt(inputs, "build.platform") !== "linux/amd64") {
    // AKS nodes are amd64; a builder on arm64 would push what they cannot run.
    throw new CloudError(
      "NoMatchingPlatform",
      `no match for platform in manifest: ${imageName} is built for ${textAt(inputs, "build.platform") ?? "whatever the builder's machine is"}, and the nodes are linux/amd64`,
      400,
    );
  }
  return {
    id: imageName,
    outputs: {
      ...inputs,
      baseImageName: imageName,
      registryServer: server,
      repoDigest: `${server}/${repository}@sha256:${hexOf(64, "image", server, repository)}`,
      context: textAt(inputs, "build.context") ?? ".",
      dockerfile: textAt(inputs, "build.dockerfile") ?? "Dockerfile",
      platform: "linux/amd64",
    },
    uses: [...uses, ...(registry ? [registry.id.toLowerCase()] : [])],
  };
}
