export * from "../gen/ultracloud/chainfire/v1/chainfire_pb.ts";
export * from "../gen/ultracloud/chainfire/v1/coordination_pb.ts";
export * from "../gen/ultracloud/chainfire/v1/maintenance_pb.ts";
