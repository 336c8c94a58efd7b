/** What calls need and servers do not: programs that start for one call load no listener, no metrics and no logs. */
export { createRpcClient, type RpcClient, type RpcClientOptions } from "./client.ts";
export { codeOf, detailOf, RemoteFault, toFault } from "./errors.ts";
