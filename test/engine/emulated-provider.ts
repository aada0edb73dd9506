import { createRequire } from "node:module";
import { setTimeout as delay } from "node:timers/promises";
import type { ServerUnaryCall, StatusObject, sendUnaryData, UntypedServiceImplementation } from "@grpc/grpc-js";
import grpc from "@grpc/grpc-js";
import pluginMessages from "@pulumi/pulumi/proto/plugin_pb.js";
import { ResourceProviderService } from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import type * as Messages from "@pulumi/pulumi/proto/provider_pb.js";
import messages from "@pulumi/pulumi/proto/provider_pb.js";
import { ResourceMonitorClient } from "@pulumi/pulumi/proto/resource_grpc_pb.js";
import type { RegisterResourceResponse } from "@pulumi/pulumi/proto/resource_pb.js";
import resources from "@pulumi/pulumi/proto/resource_pb.js";
import rpcStatus from "@pulumi/pulumi/proto/status_pb.js";
import any from "google-protobuf/google/protobuf/any_pb.js";
import empty from "google-protobuf/google/protobuf/empty_pb.js";
import struct from "google-protobuf/google/protobuf/struct_pb.js";
import { z } from "zod";
import type { CloudRequest } from "../../infra/rehearsal/cloud-request.ts";
import { isProperties, type Properties } from "../../infra/rehearsal/values.ts";
import { containsUnknown, unwrapped, unwrappedProperties, withSecretsOf } from "./property-values.ts";
import { changedPaths, type ProviderBehaviour, previewOutputs } from "./provider-behaviour.ts";

/** What stands behind a provider: the API of Azure, of a cluster, of a registry. */
export interface EmulatedCloud {
  create(request: CloudRequest): { id: string; outputs: Properties };
  /** @param recorded the outputs that the state holds. */
  read(type: string, id: string, recorded: Properties): Properties | undefined;
  update(id: string, request: CloudRequest): { outputs: Properties };
  delete(type: string, id: string): void;
  invoke(token: string, args: Properties): Properties;
}

/** A creation that went wrong half-way: the object is there, and is not what was asked for. */
export class HalfCreated extends Error {
  readonly id: string;
  readonly outputs: Properties;

  constructor(message: string, created: { id: string; outputs: Properties }) {
    super(message);
    this.id = created.id;
    this.outputs = created.outputs;
  }
}

/**
 * How long the cloud takes to make something, or take it away, in milliseconds: longer than the program needs to register
 * its resources, so that one which forgot to wait for another comes first and is refused. AKS is slow at both.
 */
function duration(type: string): number {
  return type.startsWith("azure-native:containerservice:") ? 150 : 40;
}

/**
 * A Pulumi provider that the engine attaches to over gRPC, with `cloud` behind it instead of the network.
 * Protocol: pulumi/proto/pulumi/provider.proto.
 */
export class EmulatedProvider {
  readonly #behaviour: ProviderBehaviour;
  readonly #cloud: EmulatedCloud;
  readonly #version: string;
  readonly #server = new grpc.Server();

  constructor(behaviour: ProviderBehaviour, cloud: EmulatedCloud) {
    this.#behaviour = behaviour;
    this.#cloud = cloud;
    this.#version = sdkVersion(behaviour.sdk);
    this.#server.addService(ResourceProviderService, this.#service());
  }

  /** Starts to listen; the answer is the provider's entry in PULUMI_DEBUG_PROVIDERS. */
  async listen(): Promise<string> {
    const port = await new Promise<number>((resolve, reject) =>
      this.#server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      ),
    );
    return `${this.#behaviour.name}:${port}`;
  }

  close(): void {
    this.#server.forceShutdown();
  }

  #service(): UntypedServiceImplementation {
    return {
      handshake: answer(() =>
        new messages.ProviderHandshakeResponse()
          .setAcceptSecrets(true)
          .setAcceptResources(false)
          .setAcceptOutputs(false),
      ),
      attach: answer(() => new empty.Empty()),
      getPluginInfo: answer(() => new pluginMessages.PluginInfo().setVersion(this.#version)),
      getSchema: answer(() =>
        new messages.GetSchemaResponse().setSchema(
          JSON.stringify({ name: this.#behaviour.name, version: this.#version, resources: {}, functions: {} }),
        ),
      ),
      checkConfig: answer((request: Messages.CheckRequest) =>
        new messages.CheckResponse().setInputs(request.getNews()),
      ),
      diffConfig: answer((request: Messages.DiffRequest) => this.#diff("", request)),
      configure: answer(() =>
        new messages.ConfigureResponse().setAcceptsecrets(true).setSupportspreview(true).setAcceptoutputs(false),
      ),
      check: answer((request: Messages.CheckRequest) => new messages.CheckResponse().setInputs(request.getNews())),
      diff: answer((request: Messages.DiffRequest) => this.#diff(request.getType(), request)),
      create: answer((request: Messages.CreateRequest) => this.#create(request)),
      read: answer((request: Messages.ReadRequest) => this.#read(request)),
      update: answer((request: Messages.UpdateRequest) => this.#update(request)),
      delete: answer(async (request: Messages.DeleteRequest) => {
        await delay(duration(request.getType()));
        this.#cloud.delete(request.getType(), request.getId());
        return new empty.Empty();
      }),
      invoke: answer((request: Messages.InvokeRequest) =>
        new messages.InvokeResponse().setReturn(
          wire(this.#cloud.invoke(request.getTok(), unwrappedProperties(properties(request.getArgs())))),
        ),
      ),
      construct: answer((request: Messages.ConstructRequest) => this.#construct(request)),
      cancel: answer(() => new empty.Empty()),
    };
  }

  #diff(type: string, request: Messages.DiffRequest): Messages.DiffResponse {
    const before = unwrapped(properties(request.getOldInputs()));
    const paths = changedPaths(before, unwrapped(properties(request.getNews()))).filter(
      (path) => !this.#behaviour.ignores?.(type, path),
    );
    const replaces = type === "" ? [] : paths.filter((path) => this.#behaviour.replaces(type, path));
    return (
      new messages.DiffResponse()
        .setChanges(
          paths.length > 0 ? messages.DiffResponse.DiffChanges.DIFF_SOME : messages.DiffResponse.DiffChanges.DIFF_NONE,
        )
        .setDiffsList([...new Set(paths.map(topLevel))])
        .setReplacesList([...new Set(replaces.map(topLevel))])
        // Names are given, not generated: the old holder has to go first.
        .setDeletebeforereplace(replaces.length > 0)
    );
  }

  async #create(request: Messages.CreateRequest): Promise<Messages.CreateResponse> {
    const inputs = properties(request.getProperties());
    if (request.getPreview()) {
      return new messages.CreateResponse().setProperties(
        wire(previewOutputs(this.#behaviour, request.getType(), inputs)),
      );
    }
    refuseUnknown(request.getUrn(), inputs);
    await delay(duration(request.getType()));
    try {
      const { id, outputs } = this.#cloud.create({
        type: request.getType(),
        name: request.getName(),
        inputs: unwrappedProperties(inputs),
      });
      return new messages.CreateResponse().setId(id).setProperties(wire(withSecretsOf(inputs, outputs)));
    } catch (error) {
      throw error instanceof HalfCreated ? new EngineStatus(halfCreated(error, inputs)) : error;
    }
  }

  /** A component of the provider's own, a rendered chart; whatever it renders counts as one resource below it. */
  async #construct(request: Messages.ConstructRequest): Promise<Messages.ConstructResponse> {
    const monitor = new ResourceMonitorClient(request.getMonitorendpoint(), grpc.credentials.createInsecure());
    const register = (resource: InstanceType<typeof resources.RegisterResourceRequest>) =>
      new Promise<RegisterResourceResponse>((resolve, reject) =>
        monitor.registerResource(
          resource.setType(request.getType()).setName(request.getName()).setAcceptsecrets(true),
          (error, response) => (error ? reject(error) : resolve(response)),
        ),
      );
    try {
      const component = await register(
        new resources.RegisterResourceRequest()
          .setParent(request.getParent())
          .setDependenciesList(request.getDependenciesList()),
      );
      await register(
        new resources.RegisterResourceRequest()
          .setCustom(true)
          .setParent(component.getUrn())
          .setProvider(request.getProvidersMap().get(this.#behaviour.name) ?? "")
          .setDependenciesList(inputDependencies(request))
          .setObject(request.getInputs()),
      );
      return new messages.ConstructResponse().setUrn(component.getUrn()).setState(wire({ resources: [] }));
    } finally {
      monitor.close();
    }
  }

  #read(request: Messages.ReadRequest): Messages.ReadResponse {
    const recorded = unwrappedProperties(properties(request.getProperties()));
    const outputs = this.#cloud.read(request.getType(), request.getId(), recorded);
    // An empty id tells the engine that the resource is gone.
    if (!outputs) return new messages.ReadResponse();
    const inputs = properties(request.getInputs());
    const live = Object.fromEntries(
      Object.keys(inputs).map((key) => [key, this.#liveInput(unwrapped(inputs[key]), recorded[key], outputs[key])]),
    );
    return new messages.ReadResponse()
      .setId(request.getId())
      .setInputs(wire(withSecretsOf(inputs, live)))
      .setProperties(wire(withSecretsOf(inputs, outputs)));
  }

  /** The input that would have led to what is there: as it was, except where recorded and live output differ. */
  #liveInput(input: unknown, recorded: unknown, live: unknown): unknown {
    if (changedPaths(recorded, live).length === 0) return input;
    if (!isProperties(input) || !isProperties(live)) return live;
    const before = isProperties(recorded) ? recorded : {};
    const keys = this.#behaviour.additionsAreDrift ? [...Object.keys(input), ...Object.keys(live)] : Object.keys(input);
    return Object.fromEntries(
      [...new Set(keys)]
        .map((key) => [key, this.#liveInput(input[key], before[key], live[key])])
        .filter(([, value]) => value !== undefined),
    );
  }

  #update(request: Messages.UpdateRequest): Messages.UpdateResponse {
    const inputs = properties(request.getNews());
    if (request.getPreview()) {
      return new messages.UpdateResponse().setProperties(
        wire(previewOutputs(this.#behaviour, request.getType(), inputs)),
      );
    }
    refuseUnknown(request.getUrn(), inputs);
    const { outputs } = this.#cloud.update(request.getId(), {
      type: request.getType(),
      name: request.getName(),
      inputs: unwrappedProperties(inputs),
      id: request.getId(),
    });
    return new messages.UpdateResponse().setProperties(wire(withSecretsOf(inputs, outputs)));
  }
}

function topLevel(path: string): string {
  return path.split(".")[0] ?? path;
}

function refuseUnknown(urn: string, inputs: Properties): void {
  if (containsUnknown(inputs)) throw new Error(`${urn}: an input is still unknown outside of a preview`);
}

function inputDependencies(request: Messages.ConstructRequest): string[] {
  const urns = new Set(request.getDependenciesList());
  request.getInputdependenciesMap().forEach((dependencies) => {
    for (const urn of dependencies.getUrnsList()) urns.add(urn);
  });
  return [...urns];
}

/** The status with which a provider hands the engine a resource that exists and failed (pulumi/proto, provider.proto). */
function halfCreated({ message, id, outputs }: HalfCreated, inputs: Properties): Partial<StatusObject> {
  const detail = new messages.ErrorResourceInitFailed()
    .setId(id)
    .setReasonsList([message])
    .setInputs(wire(inputs))
    .setProperties(wire(withSecretsOf(inputs, outputs)));
  const packed = new any.Any();
  packed.pack(detail.serializeBinary(), "pulumirpc.ErrorResourceInitFailed");
  const metadata = new grpc.Metadata();
  const status = new rpcStatus.Status().setCode(grpc.status.UNKNOWN).setMessage(message).setDetailsList([packed]);
  metadata.add("grpc-status-details-bin", Buffer.from(status.serializeBinary()));
  return { code: grpc.status.UNKNOWN, details: message, metadata };
}

function properties(value: InstanceType<typeof struct.Struct> | undefined): Properties {
  return value?.toJavaScript() ?? {};
}

function wire(value: Properties) {
  // Through JSON, for a Struct knows no undefined.
  return struct.Struct.fromJavaScript(JSON.parse(JSON.stringify(value)));
}

class EngineStatus extends Error {
  readonly status: Partial<StatusObject>;

  constructor(status: Partial<StatusObject>) {
    super(status.details);
    this.status = status;
  }
}

/** A gRPC method out of a function; what it throws becomes the status that the engine shows. */
function answer<Request, Response>(respond: (request: Request) => Response | Promise<Response>) {
  return async (call: ServerUnaryCall<Request, Response>, callback: sendUnaryData<Response>) => {
    try {
      callback(null, await respond(call.request));
    } catch (error) {
      callback(
        error instanceof EngineStatus
          ? error.status
          : { code: grpc.status.UNKNOWN, details: error instanceof Error ? error.message : String(error) },
      );
    }
  };
}

function sdkVersion(sdk: string): string {
  return z.object({ version: z.string() }).parse(createRequire(import.meta.url)(`${sdk}/package.json`)).version;
}
