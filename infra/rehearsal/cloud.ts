import { type AzureBefore, FakeAzure, replacingProperties } from "./azure/azure.ts";
import { CloudError, type Fault } from "./cloud-error.ts";
import type { CloudRequest, Created } from "./cloud-request.ts";
import { createImage } from "./docker.ts";
import { entraReplacedBy, FakeEntra } from "./entra/entra.ts";
import { FakeKubernetes } from "./kubernetes/kubernetes.ts";
import { verifyCluster } from "./kubernetes/verify.ts";
import { createRandom } from "./random.ts";
import type { Properties } from "./values.ts";

/**
 * Azure, its directory and the cluster in it, in memory. Refuses what they refuse, in their words; answers what they answer, and the
 * same every time. Knows nothing of Pulumi's runtime: a mock calls it as well as a provider over gRPC.
 */
export class FakeCloud {
  readonly azure: FakeAzure;
  readonly entra: FakeEntra;
  readonly kubernetes: FakeKubernetes;

  constructor(before: AzureBefore = {}) {
    this.azure = new FakeAzure(before);
    this.entra = new FakeEntra(this.azure);
    this.kubernetes = new FakeKubernetes(this.azure);
  }

  /** @throws CloudError in the words of Azure, Kubernetes, Helm or Docker. */
  create(request: CloudRequest): Created {
    switch (packageOf(request.type)) {
      case "azure-native":
        return this.azure.create(request);
      case "azuread":
        return this.entra.create(request);
      case "kubernetes":
        return this.kubernetes.create(request);
      case "random":
        return createRandom(request);
      case "docker":
        return createImage(request, this.azure);
      case "pulumi":
        // Providers: they are only told how to reach a cloud.
        return { id: request.name, outputs: request.inputs, uses: [] };
      default:
        throw new CloudError("NotRehearsed", `the rehearsal does not know the resource type ${request.type}`, 501);
    }
  }

  /** @throws CloudError also for a change that needs a replacement. */
  update(id: string, request: CloudRequest): Created {
    switch (packageOf(request.type)) {
      case "azure-native":
        return this.azure.update(id, request);
      case "azuread":
        return this.entra.update(id, request);
      case "kubernetes":
        return this.kubernetes.update(id, request);
      default:
        return this.create(request);
    }
  }

  /** Gone already is gone as well. @throws CloudError while something holds on to it. */
  delete(type: string, id: string): void {
    if (packageOf(type) === "azure-native") this.azure.delete(type, id);
    if (packageOf(type) === "azuread") this.entra.delete(id);
    if (packageOf(type) === "kubernetes") this.kubernetes.delete(type, id);
  }

  /** The outputs of what exists; undefined for what does not. */
  read(type: string, id: string): Properties | undefined {
    if (packageOf(type) === "azure-native") return this.azure.read(id);
    if (packageOf(type) === "azuread") return this.entra.read(id);
    if (packageOf(type) === "kubernetes") return this.kubernetes.read(type, id);
    return undefined;
  }

  /** Properties whose change a provider answers with a replacement. */
  replacedBy(type: string): readonly string[] {
    if (packageOf(type) === "azure-native") return replacingProperties(type);
    if (packageOf(type) === "azuread") return entraReplacedBy(type);
    return packageOf(type) === "kubernetes" ? ["metadata.name", "metadata.namespace", "apiVersion", "kind"] : [];
  }

  /** A provider's function. @throws CloudError */
  invoke(token: string, args: Properties): Properties {
    if (packageOf(token) === "azure-native") return this.azure.invoke(token, args);
    throw new CloudError("NotRehearsed", `the rehearsal does not know the function ${token}`, 501);
  }

  /** Once everything is there: what was accepted and cannot work. */
  verify(): Fault[] {
    return [...this.azure.verify(), ...verifyCluster(this.kubernetes, this.azure)];
  }
}

function packageOf(token: string): string {
  return token.split(":")[0] ?? "";
}
