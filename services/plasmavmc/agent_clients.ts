import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { createRpcClient, type RpcClient, type RpcClientOptions } from "@ultracloud/rpc";

/** Addresses remembered at once; beyond it the oldest client goes, as workers come and go under new ones. */
const clientsMax = 1024;

/** Clients of agents by the address their worker has registered, made when first asked for. */
export function agentClients(
  o: Pick<RpcClientOptions, "authorization" | "tls">,
): Disposable & { readonly of: (url: string) => RpcClient<typeof VmAgentService> } {
  const clients = new Map<string, RpcClient<typeof VmAgentService>>();
  return {
    of(url) {
      let client = clients.get(url);
      if (!client) {
        if (clients.size >= clientsMax) {
          const [oldest, old] = clients.entries().next().value!;
          clients.delete(oldest);
          old[Symbol.dispose]();
        }
        clients.set(url, client = createRpcClient(VmAgentService, { ...o, endpoints: [url] }));
      }
      return client;
    },
    [Symbol.dispose]() {
      for (const client of clients.values()) client[Symbol.dispose]();
      clients.clear();
    },
  };
}
