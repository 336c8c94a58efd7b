export * from "../gen/ultracloud/prismnet/v1/edge_pb.ts";
export * from "../gen/ultracloud/prismnet/v1/insight_pb.ts";
export * from "../gen/ultracloud/prismnet/v1/prismnet_pb.ts";
