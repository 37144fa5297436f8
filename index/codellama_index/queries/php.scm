(namespace_definition name: (namespace_name) @name) @definition.module
(class_declaration name: (name) @name) @definition.class
(interface_declaration name: (name) @name) @definition.interface
(trait_declaration name: (name) @name) @definition.class
(enum_declaration name: (name) @name) @definition.enum
(enum_case name: (name) @name) @definition.constant
(function_definition name: (name) @name) @definition.function
(method_declaration name: (name) @name) @definition.method
(const_element (name) @name) @definition.constant
(property_element name: (variable_name (name) @name)) @definition.field
(property_promotion_parameter name: (variable_name (name) @name)) @definition.promoted
(function_call_expression function: (name) @_define
  arguments: (arguments . (argument (string (string_content) @name)))
  (#eq? @_define "define")) @definition.constant
(assignment_expression left: (variable_name (name) @name)
  right: [(anonymous_function) (arrow_function)]) @definition.variable

; Uses
(anonymous_function) @local
(arrow_function) @local
(const_declaration) @outer
(property_declaration) @outer
(comment) @comment

(namespace_use_clause [(qualified_name) (name)] @import)
(namespace_use_clause (qualified_name (name) @import))
(namespace_use_clause alias: (name) @import)
(require_once_expression (string (string_content) @import))
(require_expression (string (string_content) @import))
(include_once_expression (string (string_content) @import))
(include_expression (string (string_content) @import))

(name) @reference
