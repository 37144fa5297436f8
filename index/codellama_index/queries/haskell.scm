(data_type name: (name) @name constructors: (_) @body) @definition.type
(data_type name: (name) @name) @definition.type
(newtype name: (name) @name) @definition.type
(type_synonym name: (name) @name) @definition.type
(type_family name: (name) @name) @definition.type
(class name: (name) @name declarations: (_)? @body) @definition.interface
(instance name: (name) @name declarations: (_)? @body) @scope
(data_constructor constructor: [
  (prefix name: (constructor) @name)
  (record name: (constructor) @name)]) @definition.constant
(newtype_constructor name: (constructor) @name) @definition.constant
(gadt_constructor name: (constructor) @name) @definition.constant
(field name: (field_name (variable) @name)) @definition.field
(class_declarations declaration: (signature name: (variable) @name) @definition.method)
(declarations (signature name: (variable) @name) @definition.function)
(declarations (signature names: (binding_list name: (variable) @name)) @definition.function)
(declarations (signature name: (prefix_id (operator) @name)) @definition.function)
(declarations (function name: (variable) @name match: (_) @body) @definition.function)
(declarations (function (infix operator: (operator) @name) match: (_) @body) @definition.function)
(declarations (bind name: (variable) @name match: (_) @body) @definition.function)
(instance_declarations (function name: (variable) @name match: (_) @body) @definition.method)
(instance_declarations (bind name: (variable) @name match: (_) @body) @definition.method)

; Uses
(comment) @comment
(haddock) @comment
(pragma) @attribute

(import module: (module) @import)
(import_name [(variable) (name)] @import)
(import alias: (module) @import)

(variable) @reference
(name) @reference
(constructor) @reference
(operator) @reference
