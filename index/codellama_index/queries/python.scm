(class_definition name: (identifier) @name) @definition.class
(function_definition name: (identifier) @name) @definition.function
(assignment left: (identifier) @name) @definition.variable
(assignment left: [(pattern_list (identifier) @name) (tuple_pattern (identifier) @name)]) @definition.variable
(assignment left: (_ (tuple_pattern (identifier) @name))) @definition.variable
(type_alias_statement left: (type [(identifier) @name (generic_type (identifier) @name)])) @definition.type

; Uses
(lambda) @local
(decorated_definition) @outer
(comment) @comment
(class_definition body: (block . (expression_statement (string) @doc.inside)))
(function_definition body: (block . (expression_statement (string) @doc.inside)))

(import_statement name: (dotted_name) @import)
(import_statement name: (dotted_name (identifier) @import .))
(import_from_statement module_name: (_) @import)
(import_from_statement name: (dotted_name (identifier) @import))
(aliased_import name: (dotted_name) @import)
(aliased_import alias: (identifier) @import)

(identifier) @reference
