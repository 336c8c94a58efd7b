export * from "../gen/ultracloud/plasmavmc/v1/catalog_pb.ts";
export * from "../gen/ultracloud/plasmavmc/v1/placement_pb.ts";
export * from "../gen/ultracloud/plasmavmc/v1/plasmavmc_pb.ts";
export * from "../gen/ultracloud/plasmavmc/v1/storage_pb.ts";
