; The outer three levels: what lies deeper is data.
(document (block_node (block_mapping (block_mapping_pair key: (flow_node) @name) @definition.field)))
(document (block_node (block_mapping (block_mapping_pair value: (block_node (block_mapping
  (block_mapping_pair key: (flow_node) @name) @definition.field))))))
(document (block_node (block_mapping (block_mapping_pair value: (block_node (block_mapping
  (block_mapping_pair value: (block_node (block_mapping
    (block_mapping_pair key: (flow_node) @name) @definition.field)))))))))

; Uses
(comment) @comment
