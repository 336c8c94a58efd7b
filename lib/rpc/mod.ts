/** Connect RPC: servers, clients and the frame of a component's process. */
export { type Address, isLoopback, parseAddress } from "./address.ts";
export type { Caller, Calls } from "./calls.ts";
export { clientsByUrl } from "./clients_by_url.ts";
export { createRpcClient, type RpcClient, type RpcClientOptions } from "./client.ts";
export { type Boot, runComponent } from "./component.ts";
export { codeOf, detailOf, RemoteFault, toFault } from "./errors.ts";
export type { UnaryWire } from "./fast.ts";
export { streamedResponse } from "./streamed.ts";
export { type CallerIdempotency, callerIdempotency } from "./idempotency.ts";
export { defaultLimits, type RpcLimits } from "./limits.ts";
export { spiffeIdOf } from "./listen_mtls.ts";
export { ProtoReader } from "./proto_reader.ts";
export { ProtoWriter } from "./proto_writer.ts";
export { permissionsAsked } from "./routes.ts";
export {
  type HttpHandler,
  type RpcServer,
  type RpcServerDeps,
  type RpcServerOptions,
  startRpcServer,
} from "./server.ts";
export { readTlsFiles, type TlsTexts } from "./tls_files.ts";
export type { AuthorisationRow } from "./operator.ts";
export * from "./types.ts";
