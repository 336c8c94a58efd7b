import type { DescMethod, DescService } from "@bufbuild/protobuf";
import * as chainfire from "@ultracloud/proto/chainfire/v1";
import { EventService, OperationService } from "@ultracloud/proto/common/v1";
import * as fetcher from "@ultracloud/proto/fetcher/v1";
import * as fleetscheduler from "@ultracloud/proto/fleetscheduler/v1";
import * as flaredb from "@ultracloud/proto/flaredb/v1";
import { Health } from "@ultracloud/proto/grpc/health/v1";
import { ServerReflection } from "@ultracloud/proto/grpc/reflection/v1";
import * as iam from "@ultracloud/proto/iam/v1";
import * as nodeagent from "@ultracloud/proto/nodeagent/v1";
import * as plasmavmc from "@ultracloud/proto/plasmavmc/v1";
import * as prismnet from "@ultracloud/proto/prismnet/v1";
import * as vmagent from "@ultracloud/proto/vmagent/v1";

/** Every service descriptor a contract exports, in its order. */
function servicesIn(contract: Record<string, unknown>): DescService[] {
  return Object.values(contract).filter((v): v is DescService => (v as { kind?: string } | null)?.kind === "service");
}

const common = [OperationService, EventService];

/** What each component of the profile single-node serves to callers. */
export const served: Readonly<Record<string, readonly DescService[]>> = {
  chainfire: servicesIn(chainfire),
  flaredb: servicesIn(flaredb),
  iam: [...servicesIn(iam), EventService],
  prismnet: [...servicesIn(prismnet), ...common],
  plasmavmc: [...servicesIn(plasmavmc), ...common],
  "vm-agent": servicesIn(vmagent),
  "fleet-scheduler": [...servicesIn(fleetscheduler), OperationService],
  "node-agent": servicesIn(nodeagent),
  fetcher: servicesIn(fetcher),
};

/** Every server has these beside its own; they hold no state and are public. */
export const everywhere: readonly DescService[] = [Health, ServerReflection];

/** Methods that ask for no credentials, as they are how one gets them. */
export const publicMethods: ReadonlySet<string> = new Set([
  "ultracloud.iam.v1.TokenService/Login",
  "ultracloud.iam.v1.TokenService/Refresh",
  "ultracloud.iam.v1.TokenService/ExchangeApiKey",
  "ultracloud.iam.v1.TokenService/BootstrapToken",
]);

/** Methods that any authenticated caller may use: they tell of nobody but the caller. */
export const anyonesMethods: ReadonlySet<string> = new Set([
  "ultracloud.prismnet.v1.EngineService/GetEngine",
  "ultracloud.iam.v1.TokenService/WhoAmI",
  "ultracloud.iam.v1.OrgService/ListOrgs",
]);

/** Methods that any authenticated caller may use on itself alone, and whose empty request is refused. */
export const ownMethods: ReadonlySet<string> = new Set([
  "ultracloud.iam.v1.UserService/ChangePassword",
]);

/** Changing methods whose empty request is a valid one that changes nothing, or nothing that anybody else sees. */
export const harmlessWhenEmpty: ReadonlySet<string> = new Set([
  "ultracloud.chainfire.v1.KvService/Txn",
  "ultracloud.chainfire.v1.SessionService/OpenSession",
  "ultracloud.chainfire.v1.MaintenanceService/Alarm",
  "ultracloud.chainfire.v1.MaintenanceService/Reclaim",
]);

/** Components whose only callers are workloads: a person's token is no credential there. */
export const workloadsOnly: ReadonlySet<string> = new Set([
  "chainfire",
  "flaredb",
  "vm-agent",
  "node-agent",
  "fetcher",
]);

const nodesOwn: ReadonlySet<string> = new Set(["RegisterNode", "Heartbeat", "WatchAssignment"]);

/** Who may call a method with full rights: the name of a workload, or undefined for the administrator. */
export function workloadFor(component: string, service: DescService, method: DescMethod): string | undefined {
  if (component === "vm-agent" || component === "fetcher") return "plasmavmc";
  if (component === "node-agent") return "fleet-scheduler";
  if (service === fleetscheduler.FleetNodeService && nodesOwn.has(method.name)) return "node-agent";
  if (workloadsOnly.has(component)) return "operator";
  if (service === plasmavmc.NodeService && ["RegisterNode", "Heartbeat"].includes(method.name)) return "vm-agent";
  if (service === plasmavmc.ImageService && method.name === "ReadImage") return "vm-agent";
  if (service === iam.PolicyService) return "plasmavmc";
  if (service === prismnet.PortService && ["BindPort", "UnbindPort"].includes(method.name)) return "plasmavmc";
  return undefined;
}
