"""What both stages speak: config, data sets, media, boxes, tables, work folders, weights. It imports neither stage."""
