import { type DescFile, type DescMessage, type DescService, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import {
  ServerReflection,
  type ServerReflectionRequest,
  type ServerReflectionResponseSchema,
} from "@ultracloud/proto/grpc/reflection/v1";
import { bind, type BoundService } from "./types.ts";

type Answer = MessageInitShape<typeof ServerReflectionResponseSchema>["messageResponse"];

const notFound = (what: string): Answer => ({
  case: "errorResponse",
  value: { errorCode: 5, errorMessage: `Cannot find ${what.slice(0, 200)}` },
});

/** grpc.reflection.v1 over Connect, for tools that call services they were not compiled with. */
export function reflectionService(services: readonly DescService[]): BoundService {
  const files = new Map<string, DescFile>();
  const symbols = new Map<string, DescFile>();
  const addMessage = (message: DescMessage) => {
    symbols.set(message.typeName, message.file);
    for (const nested of message.nestedMessages) addMessage(nested);
    for (const nested of message.nestedEnums) symbols.set(nested.typeName, nested.file);
  };
  const addFile = (file: DescFile) => {
    const name = `${file.name}.proto`;
    if (files.has(name)) return;
    files.set(name, file);
    for (const dependency of file.dependencies) addFile(dependency);
    for (const message of file.messages) addMessage(message);
    for (const item of file.enums) symbols.set(item.typeName, file);
    for (const service of file.services) {
      symbols.set(service.typeName, file);
      for (const method of service.methods) symbols.set(`${service.typeName}.${method.name}`, file);
    }
  };
  const all = [...services, ServerReflection];
  for (const service of all) addFile(service.file);

  const closure = (file: DescFile, into: Set<DescFile> = new Set()) => {
    if (!into.has(file)) {
      into.add(file);
      for (const dependency of file.dependencies) closure(dependency, into);
    }
    return into;
  };
  const describe = (file: DescFile | undefined, what: string): Answer => {
    if (file === undefined) return notFound(what);
    const protos = [...closure(file)].map((f) => toBinary(FileDescriptorProtoSchema, f.proto));
    return { case: "fileDescriptorResponse", value: { fileDescriptorProto: protos } };
  };
  const answer = ({ messageRequest: ask }: ServerReflectionRequest): Answer => {
    switch (ask.case) {
      case "listServices":
        return { case: "listServicesResponse", value: { service: all.map((s) => ({ name: s.typeName })) } };
      case "fileByFilename":
        return describe(files.get(ask.value), `file ${ask.value}`);
      case "fileContainingSymbol":
        return describe(symbols.get(ask.value), `symbol ${ask.value}`);
      case "allExtensionNumbersOfType":
        return symbols.has(ask.value)
          ? { case: "allExtensionNumbersResponse", value: { baseTypeName: ask.value } }
          : notFound(`type ${ask.value}`);
      case "fileContainingExtension":
        return notFound(`extension ${ask.value.extensionNumber} of ${ask.value.containingType}`);
      case undefined:
        return { case: "errorResponse", value: { errorCode: 3, errorMessage: "Cannot answer: nothing was asked" } };
    }
  };
  return bind(ServerReflection, {
    // Bidirectional streams have no handler type of their own.
    serverReflectionInfo: (async function* (requests: AsyncIterable<ServerReflectionRequest>) {
      for await (const request of requests) {
        yield { validHost: request.host, originalRequest: request, messageResponse: answer(request) };
      }
    }) as never,
  }, { serverReflectionInfo: { public: "the contracts are public" } });
}
