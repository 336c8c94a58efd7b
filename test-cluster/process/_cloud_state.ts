import { ClusterService, LeaseService } from "@ultracloud/proto/chainfire/v1";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { ImageService, VmService } from "@ultracloud/proto/plasmavmc/v1";
import { PortService, SecurityGroupService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import type { Session } from "@ultracloud/cli";

/** Buckets in which a service keeps what its callers made; the others hold its own leases and cursors. */
const callerBuckets = ["records", "ids", "operations", "active", "answers"];

export interface CloudState {
  readonly vpcs: readonly string[];
  /** Keys by "database/bucket". */
  readonly keys: Readonly<Record<string, readonly string[]>>;
  readonly [other: string]: unknown;
}

/** Everything a caller could have changed, in a form that can be compared. Values that live (heartbeats) are left out. */
export async function cloudState(session: Session, project: string): Promise<CloudState> {
  const cluster = await session.client(ClusterService, "chainfire").status({});
  const leases = await session.client(LeaseService, "chainfire").leaseList({});
  const { databases } = await session.client(DatabaseService, "flaredb").listDatabases({});
  const kv = session.client(KvService, "flaredb");
  const keys: Record<string, string[]> = {};
  for (const { name: database } of databases) {
    for (const bucket of callerBuckets) {
      const found: string[] = [];
      for (let pageToken = "";;) {
        const page = await kv.scan({ database, bucket, keysOnly: true, limit: 10_000, pageToken });
        found.push(...page.items.map((item) => item.key));
        pageToken = page.nextPageToken;
        if (pageToken === "") break;
      }
      keys[`${database}/${bucket}`] = found;
    }
  }
  const names = (list: readonly { meta?: { name: string; etag?: string } | undefined }[]) =>
    list.map((r) => `${r.meta?.name} ${r.meta?.etag ?? ""}`);
  return {
    revision: cluster.header?.revision,
    compacted: cluster.compactRevision,
    leases: leases.ids.map(String).sort(),
    databases: databases.map((d) => d.name).sort(),
    keys,
    vpcs: names((await session.client(VpcService, "prismnet").listVpcs({ project })).vpcs),
    subnets: names((await session.client(SubnetService, "prismnet").listSubnets({ project })).subnets),
    groups: names(
      (await session.client(SecurityGroupService, "prismnet").listSecurityGroups({ project })).securityGroups,
    ),
    ports: names((await session.client(PortService, "prismnet").listPorts({ project })).ports),
    vms: names((await session.client(VmService, "plasmavmc").listVms({ project })).vms),
    images: names((await session.client(ImageService, "plasmavmc").listImages({ project })).images),
  };
}
