(create_table (object_reference name: (identifier) @name)) @definition.class
(create_view (object_reference name: (identifier) @name)) @definition.class
(create_materialized_view (object_reference name: (identifier) @name)) @definition.class
(alter_table (object_reference name: (identifier) @within) (add_column
  (column_definition name: (identifier) @name) @definition.field))
(column_definition name: (identifier) @name) @definition.field
(create_function (object_reference name: (identifier) @name)) @definition.function
(create_trigger (keyword_create) . (keyword_trigger) .
  (object_reference name: (identifier) @name)) @definition.function
(create_index column: (identifier) @name) @definition.variable
(create_type (object_reference name: (identifier) @name)) @definition.type
(create_sequence (object_reference name: (identifier) @name)) @definition.variable
(create_schema (identifier) @name) @definition.module

; Uses
(statement) @outer
(comment) @comment
(marginalia) @comment

(identifier) @reference
